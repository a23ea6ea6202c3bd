"""Knowledge bases begin and go, and documents with them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.audit import Action
from accounts.models import User
from rag.embedding_models import embedding_model
from rag.models import Document, KnowledgeBase
from rag.sentences import Sizes


def create(
    *,
    owner: User,
    name: str,
    embedding_model_name: str,
    sizes: Sizes = Sizes(),  # noqa: B008 - it is frozen.
) -> KnowledgeBase:
    """
    A new base; "" names the default model.

    Raises UnknownEmbeddingModel, and Forbidden where only some bases are granted.
    """
    owner.grant.require_every_base()
    model = embedding_model(embedding_model_name, config=settings.CONFIG)
    return KnowledgeBase.objects.create(
        owner=owner,
        name=name,
        embedding_model=model.name,
        chunk_size_cjk=sizes.cjk,
        chunk_size_latin=sizes.latin,
        overlap_percent=sizes.overlap_percent,
        created_at=timezone.now(),
    )


def delete(*, owner: User, knowledge_base_id: uuid.UUID) -> None:
    """Remove an owned base with all that is in it; raises NotFound."""
    owned = KnowledgeBase.objects.owned_by(owner)
    remove(owned.fetch(knowledge_base_id), by=owner.pk)


@transaction.atomic
def remove(base: KnowledgeBase, *, by: int | None) -> None:
    """Remove a base with all that is in it."""
    lock(Document.objects.filter(knowledge_base=base))
    # From here on nothing can be added, and what was added meanwhile is locked, too.
    KnowledgeBase.objects.select_for_update().filter(pk=base.pk).first()
    lock(Document.objects.filter(knowledge_base=base))
    audit.record(Action.DELETED, by=by, on=base)
    base.delete()


def delete_document(
    *, owner: User, knowledge_base_id: uuid.UUID, document_id: uuid.UUID
) -> None:
    """Remove a document of an owned base; raises NotFound."""
    base = KnowledgeBase.objects.owned_by(owner).fetch(knowledge_base_id)
    documents = Document.objects.owned_by(owner).filter(knowledge_base=base)
    remove_document(documents.fetch(document_id), by=owner.pk)


@transaction.atomic
def remove_document(document: Document, *, by: int | None) -> None:
    """Remove a document, which is thereby no longer found."""
    lock(Document.objects.filter(pk=document.pk))
    audit.record(Action.DELETED, by=by, on=document)
    changed(document.knowledge_base_id)
    document.delete()


def lock(documents: QuerySet[Document]) -> bool:
    """
    Let nobody work on documents until the caller's transaction ends; False for none.

    A document is locked before its chunks and before its base. Whoever deletes does so
    first: else chunks were stored behind the back of the deletion, which would fail,
    or both waited for each other. SQLite has one writer at a time.
    """
    return bool(documents.select_for_update().order_by("pk").values_list("pk"))


def changed(knowledge_base_id: uuid.UUID) -> None:
    """Raise a base's version, in the transaction that changes its ready chunks."""
    KnowledgeBase.objects.filter(pk=knowledge_base_id).update(version=F("version") + 1)
