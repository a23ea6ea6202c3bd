"""A base too large for memory, scored in blocks as the database gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag.dense import DenseIndex
from rag.embedders import LOCAL_NGRAM
from rag.indexes import Asked, Base, Contents, Scored, Vector, contents_of, rows_of
from rag.keyword import KeywordBuilder
from rag.ngrams import DIMENSION, idf_from, query_vector


def scanned(base: Base, asked: Asked) -> Scored:
    """What an index would say, slower; reads every chunk, with n-grams twice."""
    contents = contents_of(base.id)
    vector = asked.vector
    if base.embedding_model == LOCAL_NGRAM:
        vector = query_vector(asked.text, scanned_idf(contents))
    dense = [np.zeros(0, np.float32)]
    keyword = KeywordBuilder(only=asked.terms)
    for part in rows_of(contents, "embedding", "terms"):
        keyword.add([terms for _, terms in part])
        if vector is not None:
            block = block_of([row for row, _ in part], dimension=len(vector))
            dense.append(block.scores(vector))
    index = keyword.finish()
    return Scored(
        ids=contents.ids,
        dense=None if vector is None else np.concatenate(dense),
        keyword=index.scores(asked.terms),
        index=index,
    )


def scanned_idf(contents: Contents) -> Vector:
    """How rare each bucket of n-grams is in a base: (DIMENSION,) float32."""
    used = np.zeros(DIMENSION, np.int64)
    for part in rows_of(contents, "embedding"):
        block = block_of([row for (row,) in part], dimension=DIMENSION)
        used += np.count_nonzero(block.matrix, axis=0)
    return idf_from(used, len(contents.ids))


def block_of(rows: Sequence[bytes | memoryview], *, dimension: int) -> DenseIndex:
    """Some rows of a base, those deleted as zeros, to be scored and forgotten."""
    block = DenseIndex(size=len(rows), dimension=dimension)
    block.fill([row or bytes(4 * dimension) for row in rows])
    return block
