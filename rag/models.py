"""What is known: knowledge bases, their documents, and the chunks searched."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db import models

from llmbackend.errors import NotFound

if TYPE_CHECKING:
    from accounts.models import User


class KnowledgeBaseQuerySet(models.QuerySet["KnowledgeBase"]):
    """The only door to a user's knowledge bases."""

    def owned_by(self, user: User) -> Self:
        """Those of the user that the request's credential grants."""
        owned, granted = self.filter(owner=user), user.grant.knowledge_bases
        return owned if granted is None else owned.filter(pk__in=granted)

    def fetch(self, knowledge_base_id: uuid.UUID) -> KnowledgeBase:
        """Like get(), but raises NotFound."""
        found = self.filter(pk=knowledge_base_id).first()
        if found is None:
            raise NotFound
        return found


class KnowledgeBase(models.Model):
    """An owner's set of documents, embedded by one model."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="knowledge_bases",
    )
    name = models.CharField(max_length=500)
    embedding_model = models.CharField(max_length=200)
    dimension = models.PositiveIntegerField(
        null=True, help_text="Pinned by the first document."
    )
    chunk_size_cjk = models.PositiveIntegerField(default=400)
    chunk_size_latin = models.PositiveIntegerField(default=1100)
    overlap_percent = models.PositiveSmallIntegerField(default=15)
    version = models.PositiveBigIntegerField(
        default=0, help_text="Raised by every change of its ready chunks."
    )
    created_at = models.DateTimeField()

    objects = KnowledgeBaseQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["-created_at"], name="base_created")]

    def __str__(self) -> str:
        return f"knowledge base {self.pk}"


class DocumentQuerySet(models.QuerySet["Document"]):
    """The only door to a user's documents."""

    def owned_by(self, user: User) -> Self:
        owned = self.filter(knowledge_base__owner=user)
        granted = user.grant.knowledge_bases
        return owned if granted is None else owned.filter(knowledge_base__in=granted)

    def fetch(self, document_id: uuid.UUID) -> Document:
        """Like get(), but raises NotFound."""
        found = self.filter(pk=document_id).first()
        if found is None:
            raise NotFound
        return found


class Document(models.Model):
    """An uploaded file; invisible to retrieval until it is ready."""

    class Status(models.TextChoices):
        PROCESSING = "processing"
        READY = "ready"
        FAILED = "failed"

    class Stage(models.TextChoices):
        RECEIVED = "received"
        EXTRACTED = "extracted"
        CHUNKED = "chunked"
        EMBEDDED = "embedded"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    knowledge_base = models.ForeignKey(
        KnowledgeBase,
        on_delete=models.CASCADE,
        related_name="documents",
        db_index=False,  # The unique constraint begins with it.
    )
    name = models.CharField(max_length=1000, help_text="Display text, never a path.")
    type = models.CharField(max_length=16)
    sha256 = models.CharField(max_length=64)
    encoding = models.CharField(max_length=64, blank=True, default="")
    embedding_model = models.CharField(max_length=200)
    status = models.CharField(max_length=16, choices=Status, default=Status.PROCESSING)
    stage = models.CharField(max_length=16, choices=Stage, default=Stage.RECEIVED)
    chunks_done = models.PositiveIntegerField(default=0)
    chunks_total = models.PositiveIntegerField(default=0)
    error_code = models.CharField(max_length=64, blank=True, default="")
    size_bytes = models.PositiveBigIntegerField(default=0)
    size_characters = models.PositiveBigIntegerField(default=0)
    claim = models.UUIDField(
        null=True,
        help_text="While processing: whose work it is; all its writes say so.",
    )
    lease_until = models.DateTimeField(
        null=True, help_text="While processing: past it, its process is dead."
    )
    created_at = models.DateTimeField()
    ready_at = models.DateTimeField(null=True)

    objects = DocumentQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["knowledge_base", "sha256"], name="document_once_per_base"
            )
        ]
        indexes = [models.Index(fields=["-created_at"], name="document_created")]

    def __str__(self) -> str:
        return f"document {self.pk}"


class Chunk(models.Model):
    """A piece of a document's text, with its vector and its terms."""

    document = models.ForeignKey(
        Document,
        on_delete=models.CASCADE,
        related_name="chunks",
        db_index=False,  # The unique constraint begins with it.
    )
    ordinal = models.PositiveIntegerField()
    text = models.TextField()
    start = models.PositiveIntegerField(help_text="text[start:end] of the document.")
    end = models.PositiveIntegerField()
    page = models.PositiveIntegerField(null=True)
    heading_path = models.JSONField(default=list, blank=True)
    embedding = models.BinaryField(help_text="Little-endian float32, unit length.")
    terms = models.BinaryField(help_text="Term ids and counts.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["document", "ordinal"], name="chunk_ordinal_once"
            )
        ]

    def __str__(self) -> str:
        return f"chunk {self.ordinal} of document {self.document_id}"
