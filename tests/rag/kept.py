"""What uploads stored, kept to be put into other bases without another upload."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from rag.models import Chunk, Document, KnowledgeBase


@dataclass(frozen=True)
class Kept:
    """The documents of a base, their chunks, and what the base says of them."""

    base: KnowledgeBase
    documents: list[Document]
    chunks: list[Chunk]


def kept(base: str) -> Kept:
    """All that is in a base now."""
    found = KnowledgeBase.objects.get(pk=base)
    documents = Document.objects.filter(knowledge_base=found)
    return Kept(
        found,
        list(documents),
        list(Chunk.objects.filter(document__in=documents).order_by("pk")),
    )


def put_into(base: str, what: Kept) -> None:
    """The same documents in another base, under other ids."""
    ids = {document.pk: uuid.uuid4() for document in what.documents}
    Document.objects.bulk_create(
        Document(**{**fields_of(each), "id": ids[each.pk], "knowledge_base_id": base})
        for each in what.documents
    )
    Chunk.objects.bulk_create(
        Chunk(**{**fields_of(each), "id": None, "document_id": ids[each.document_id]})
        for each in what.chunks
    )
    KnowledgeBase.objects.filter(pk=base).update(
        dimension=what.base.dimension, version=what.base.version
    )


def fields_of(row: Document | Chunk) -> dict[str, object]:
    return {f.attname: getattr(row, f.attname) for f in row._meta.concrete_fields}
