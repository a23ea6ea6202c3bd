"""A knowledge base as it leaves the server: its documents' names and texts."""

from __future__ import annotations

from typing import Any

from accounts.portable import iso
from rag.models import Document, KnowledgeBase


def knowledge_base(base: KnowledgeBase) -> dict[str, Any]:
    return {
        "kb_id": str(base.pk),
        "name": base.name,
        "embedding_model": base.embedding_model,
        "chunk_size_cjk": base.chunk_size_cjk,
        "chunk_size_latin": base.chunk_size_latin,
        "overlap_percent": base.overlap_percent,
        "created_at": iso(base.created_at),
    }


def document(document: Document) -> dict[str, Any]:
    return {
        "doc_id": str(document.pk),
        "kb_id": str(document.knowledge_base_id),
        "name": document.name,
        "type": document.type,
        "status": document.status,
        "size_bytes": document.size_bytes,
        "sha256": document.sha256,
        "created_at": iso(document.created_at),
        "text": text_of(document),
    }


def text_of(document: Document) -> str:
    """
    What was read out of a document, put together again from its chunks.

    Blank space between two of them, which belongs to none, comes as line breaks.
    """
    parts, end = [], 0
    chunks = document.chunks.order_by("start", "ordinal")
    for start, text in chunks.values_list("start", "text"):
        parts.append("\n" * (start - end) + text[max(0, end - start) :])
        end = max(end, start + len(text))
    return "".join(parts)
