"""A base too large for memory, scored in blocks as the database gives them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np

from rag.dense import DenseIndex
from rag.embedders import LOCAL_NGRAM
from rag.indexes import Asked, Base, Scored, Vector, rows_of
from rag.keyword import KeywordBuilder
from rag.ngrams import DIMENSION, idf_from, query_vector


def scanned(base: Base, asked: Asked) -> Scored:
    """What an index would say, slower; reads every chunk, with n-grams twice."""
    vector = asked.vector
    if base.embedding_model == LOCAL_NGRAM:
        vector = query_vector(asked.text, scanned_idf(base.id))
    ids = [np.zeros(0, np.int64)]
    dense = [np.zeros(0, np.float32)]
    keyword = KeywordBuilder(only=asked.terms)
    for part in rows_of(base.id):
        ids.append(np.array([pk for pk, _, _ in part]))
        keyword.add([terms for _, _, terms in part])
        if vector is not None:
            block = block_of([row for _, row, _ in part], dimension=len(vector))
            dense.append(block.scores(vector))
    index = keyword.finish()
    return Scored(
        ids=np.concatenate(ids),
        dense=None if vector is None else np.concatenate(dense),
        keyword=index.scores(asked.terms),
        index=index,
    )


def scanned_idf(base_id: uuid.UUID) -> Vector:
    """How rare each bucket of n-grams is in a base: (DIMENSION,) float32."""
    used, rows = np.zeros(DIMENSION, np.int64), 0
    for part in rows_of(base_id):
        block = block_of([row for _, row, _ in part], dimension=DIMENSION)
        used += np.count_nonzero(block.matrix, axis=0)
        rows += len(part)
    return idf_from(used, rows)


def block_of(rows: Sequence[bytes | memoryview], *, dimension: int) -> DenseIndex:
    """Some rows of a base, to be scored and forgotten."""
    block = DenseIndex(size=len(rows), dimension=dimension)
    block.fill(rows)
    return block
