"""What is known: knowledge bases, their documents, and the chunks searched."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

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

    id = models.UUIDField(_("id"), primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        on_delete=models.CASCADE,
        related_name="knowledge_bases",
    )
    name = models.CharField(_("name"), max_length=500)
    embedding_model = models.CharField(_("embedding model"), max_length=200)
    dimension = models.PositiveIntegerField(
        _("dimension"), null=True, help_text=_("Pinned by the first document.")
    )
    chunk_size_cjk = models.PositiveIntegerField(_("chunk size, Chinese"), default=400)
    chunk_size_latin = models.PositiveIntegerField(_("chunk size, Latin"), default=1100)
    overlap_percent = models.PositiveSmallIntegerField(_("overlap, %"), default=15)
    version = models.PositiveBigIntegerField(
        _("version"),
        default=0,
        help_text=_("Raised by every change of its ready chunks."),
    )
    created_at = models.DateTimeField(_("created"))

    objects = KnowledgeBaseQuerySet.as_manager()

    class Meta:
        verbose_name = _("knowledge base")
        verbose_name_plural = _("knowledge bases")
        indexes = [models.Index(fields=["-created_at", "-id"], name="base_created")]

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"


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
        PROCESSING = "processing", _("processing")
        READY = "ready", _("ready")
        FAILED = "failed", _("failed")

    class Stage(models.TextChoices):
        RECEIVED = "received", _("received")
        EXTRACTED = "extracted", _("extracted")
        CHUNKED = "chunked", _("chunked")
        EMBEDDED = "embedded", _("embedded")

    id = models.UUIDField(_("id"), primary_key=True, default=uuid.uuid4, editable=False)
    knowledge_base = models.ForeignKey(
        KnowledgeBase,
        verbose_name=_("knowledge base"),
        on_delete=models.CASCADE,
        related_name="documents",
        db_index=False,  # The unique constraint begins with it.
    )
    name = models.CharField(
        _("name"), max_length=1000, help_text=_("Display text, never a path.")
    )
    type = models.CharField(_("type"), max_length=16)
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    encoding = models.CharField(_("encoding"), max_length=64, blank=True, default="")
    embedding_model = models.CharField(_("embedding model"), max_length=200)
    status = models.CharField(
        _("status"), max_length=16, choices=Status, default=Status.PROCESSING
    )
    stage = models.CharField(
        _("stage"), max_length=16, choices=Stage, default=Stage.RECEIVED
    )
    chunks_done = models.PositiveIntegerField(_("chunks done"), default=0)
    chunks_total = models.PositiveIntegerField(_("chunks"), default=0)
    error_code = models.CharField(
        _("error code"), max_length=64, blank=True, default=""
    )
    size_bytes = models.PositiveBigIntegerField(_("bytes"), default=0)
    size_characters = models.PositiveBigIntegerField(_("characters"), default=0)
    claim = models.UUIDField(
        _("claim"),
        null=True,
        help_text=_("While processing: whose work it is; all its writes say so."),
    )
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        help_text=_("While processing: past it, its process is dead."),
    )
    created_at = models.DateTimeField(_("created"))
    ready_at = models.DateTimeField(_("ready"), null=True)

    objects = DocumentQuerySet.as_manager()

    class Meta:
        verbose_name = _("document")
        verbose_name_plural = _("documents")
        constraints = [
            models.UniqueConstraint(
                fields=["knowledge_base", "sha256"], name="document_once_per_base"
            )
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="document_created"),
            models.Index(
                fields=["knowledge_base", "-created_at", "-id"], name="document_list"
            ),
        ]

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"


class Chunk(models.Model):
    """A piece of a document's text, with its vector and its terms."""

    document = models.ForeignKey(
        Document,
        verbose_name=_("document"),
        on_delete=models.CASCADE,
        related_name="chunks",
        db_index=False,  # The unique constraint begins with it.
    )
    ordinal = models.PositiveIntegerField(_("ordinal"))
    text = models.TextField(_("text"))
    start = models.PositiveIntegerField(
        _("start"), help_text=_("text[start:end] of the document.")
    )
    end = models.PositiveIntegerField(_("end"))
    page = models.PositiveIntegerField(_("page"), null=True)
    heading_path = models.JSONField(_("headings"), default=list, blank=True)
    embedding = models.BinaryField(
        _("vector"), help_text=_("Little-endian float32, unit length.")
    )
    terms = models.BinaryField(_("terms"), help_text=_("Term ids and counts."))

    class Meta:
        verbose_name = _("chunk")
        verbose_name_plural = _("chunks")
        constraints = [
            models.UniqueConstraint(
                fields=["document", "ordinal"], name="chunk_ordinal_once"
            )
        ]

    def __str__(self) -> str:
        return f"chunk {self.ordinal} of document {self.document_id}"
