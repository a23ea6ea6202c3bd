"""Knowledge bases of any size, made up: Chinese passages of 218 characters."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

LENGTH = 218
CHARACTERS = 4000
WORDS = 40_000
DOCUMENT = 500
FIRST_HAN = 0x4E00


def passages(count: int, *, seed: int) -> Iterator[str]:
    """
    Texts whose words are as unequally frequent as those of real ones (Zipf).

    A word is two characters; which ones is the same for every seed.
    """
    letters = _zipf(np.random.default_rng(0), CHARACTERS, 2 * WORDS)
    codes = (letters + FIRST_HAN).astype("<u4").reshape(WORDS, 2)
    random = np.random.default_rng(seed)
    for _ in range(count):
        chosen = _zipf(random, WORDS, LENGTH // 2)
        yield codes[chosen].tobytes().decode("utf-32-le")


def _zipf(random: np.random.Generator, most: int, count: int) -> Any:
    """`count` numbers from 0 to `most`, n about 1 / (n + 1) as often as 0."""
    return (most ** random.random(count)).astype(np.int64) - 1


def vectors(count: int, *, dimension: int, seed: int) -> Any:
    """(count, dimension) float32 of random directions and unit length."""
    random = np.random.default_rng(seed)
    made = random.standard_normal((count, dimension), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def filled(owner: Any, *, chunks: int, dimension: int, model: str) -> uuid.UUID:
    """A base of `owner`'s with that many chunks, put into the database directly."""
    from django.utils import timezone

    from rag.models import KnowledgeBase

    base = KnowledgeBase.objects.create(
        owner=owner,
        name=f"{chunks} x {dimension}",
        embedding_model=model,
        dimension=dimension,
        created_at=timezone.now(),
        version=1,
    )
    for seed in range(chunks // DOCUMENT):
        _add_document(base, dimension=dimension, seed=seed)
    return base.pk


def _add_document(base: Any, *, dimension: int, seed: int) -> None:
    from django.utils import timezone

    from rag.models import Chunk, Document
    from rag.terms import pack_terms

    document = Document.objects.create(
        knowledge_base=base,
        name=f"{seed}.txt",
        type="txt",
        sha256=hashlib.sha256(f"{base.pk} {seed}".encode()).hexdigest(),
        embedding_model=base.embedding_model,
        status=Document.Status.READY,
        chunks_total=DOCUMENT,
        created_at=timezone.now(),
    )
    texts = passages(DOCUMENT, seed=seed)
    rows = vectors(DOCUMENT, dimension=dimension, seed=seed)
    Chunk.objects.bulk_create(
        Chunk(
            document=document,
            ordinal=ordinal,
            text=text,
            start=ordinal * LENGTH,
            end=(ordinal + 1) * LENGTH,
            embedding=row.tobytes(),
            terms=pack_terms(text),
        )
        for ordinal, (text, row) in enumerate(zip(texts, rows, strict=True))
    )
