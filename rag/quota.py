"""How much a user keeps in knowledge bases, and how much that may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, Sum

from accounts.limits import Allowance, limits_of, one_at_a_time
from accounts.models import User
from llmbackend.errors import QuotaExceeded
from rag.models import Document

MB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Documents, and the bytes they had when they came; those that failed are not."""

    documents: int
    size: int


def kept_by(owner: User) -> Kept:
    """In all of a user's bases, also in those that a request does not reach."""
    mine = Document.objects.filter(knowledge_base__owner=owner)
    return Kept(
        **mine.exclude(status=Document.Status.FAILED).aggregate(
            documents=Count("pk"), size=Sum("size_bytes", default=0)
        )
    )


def allowances_of(owner: User) -> Iterator[Allowance]:
    """What is left of a user's limits, as far as there are any; MB to the hundredth."""
    limits = limits_of(owner)
    if not limits.documents and not limits.document_mb:
        return
    kept = kept_by(owner)
    if limits.documents:
        left = max(0, limits.documents - kept.documents)
        yield Allowance(limit="documents", allowed=limits.documents, left=left)
    if limits.document_mb:
        free = max(0, limits.document_mb * MB - kept.size)
        hundredths = free * 100 // MB
        yield Allowance(
            limit="document_mb", allowed=limits.document_mb, left=hundredths / 100
        )


def check_quota(owner: User, *, size: int) -> None:
    """
    Raise QuotaExceeded when one more document of `size` bytes is too much.

    To be called in the transaction that adds it.
    """
    limits = limits_of(owner)
    if not limits.documents and not limits.document_mb:
        return
    one_at_a_time(owner)
    kept = kept_by(owner)
    if 0 < limits.documents <= kept.documents:
        raise QuotaExceeded(
            f"At most {limits.documents} documents are kept for you.",
            facts={"limit": "documents", "allowed": limits.documents},
        )
    if 0 < limits.document_mb * MB < kept.size + size:
        raise QuotaExceeded(
            f"At most {limits.document_mb} MB are kept for you.",
            facts={"limit": "document_mb", "allowed": limits.document_mb},
        )
