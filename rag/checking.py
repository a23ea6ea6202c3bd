"""Whether what is stored of a knowledge base can be searched, and mending it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from django.db import transaction

from rag.bases import changed, lock
from rag.embedding_models import LOCAL_NGRAM
from rag.indexes import ROWS_AT_ONCE
from rag.ingestion import stored
from rag.models import Chunk, Document
from rag.ngrams import passage_vectors
from rag.terms import pack_terms

Status = Document.Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    What is wrong with a document; `damaged` are chunks whose vector is.

    `mended` says that a repair makes it whole; else it fails and must be given again.
    """

    document_id: uuid.UUID
    base_id: uuid.UUID
    reason: str
    damaged: tuple[int, ...] = ()
    mended: bool = False


def faults() -> Iterator[Fault]:
    """Look at every ready document of every base, chunk by chunk."""
    ready = Document.objects.filter(status=Status.READY)
    # Looked up one by one: no statement is open while a caller repairs what is found,
    # which SQLite would refuse once another has written.
    for pk in list(ready.order_by("pk").values_list("pk", flat=True)):
        document = ready.select_related("knowledge_base").filter(pk=pk).first()
        fault = _fault_of(document) if document else None
        if fault is not None and ready.filter(pk=pk).exists():
            yield fault


def _fault_of(document: Document) -> Fault | None:
    base = document.knowledge_base
    held = document.chunks.count()
    if held != document.chunks_total:
        reason = f"{held} chunks of {document.chunks_total}"
        return Fault(document_id=document.pk, base_id=base.pk, reason=reason)
    bad_vectors, bad_terms = [], []
    chunks = document.chunks.order_by("pk")
    for chunk in chunks.iterator(chunk_size=ROWS_AT_ONCE):
        if not _is_vector(bytes(chunk.embedding), base.dimension or 0):
            bad_vectors.append(chunk.pk)
        if bytes(chunk.terms) != pack_terms(chunk.text):
            bad_terms.append(chunk.pk)
    if not bad_vectors and not bad_terms:
        return None
    reason = f"{len(bad_vectors)} vectors and {len(bad_terms)} term rows are damaged"
    mended = not bad_vectors or base.embedding_model == LOCAL_NGRAM
    damaged = tuple(sorted({*bad_vectors, *bad_terms}))
    return Fault(
        document_id=document.pk,
        base_id=base.pk,
        reason=reason,
        damaged=damaged,
        mended=mended,
    )


def _is_vector(row: bytes, dimension: int) -> bool:
    """Whether a row is of this dimension and of unit length, or all zeros."""
    if len(row) != 4 * dimension:
        return False
    vector = np.frombuffer(row, "<f4")
    length = float(np.linalg.norm(vector))
    return bool(np.isfinite(length)) and (length == 0 or abs(length - 1) < 1e-3)


@transaction.atomic
def repair(fault: Fault) -> None:
    """Make the rows anew from the text; where that cannot be, the document fails."""
    documents = Document.objects.filter(pk=fault.document_id, status=Status.READY)
    if not lock(documents):
        return  # It was deleted since.
    if fault.mended:
        ngrams = documents.filter(knowledge_base__embedding_model=LOCAL_NGRAM).exists()
        for chunk in Chunk.objects.filter(pk__in=fault.damaged):
            chunk.terms = pack_terms(chunk.text)
            if ngrams:
                chunk.embedding = stored(passage_vectors([chunk.text])[0])
            chunk.save(update_fields=["terms", "embedding"])
    else:
        Chunk.objects.filter(document=fault.document_id).delete()
        documents.update(status=Status.FAILED, error_code="damaged")
    changed(fault.base_id)


def orphaned_chunks() -> int:
    """Chunks of documents that are neither ready nor being processed."""
    return Chunk.objects.filter(document__status=Status.FAILED).count()


def remove_orphaned_chunks() -> int:
    return Chunk.objects.filter(document__status=Status.FAILED).delete()[0]
