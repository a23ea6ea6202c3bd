"""A base too large for memory, scored in blocks as the database gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag.dense import DenseIndex
from rag.embedders import LOCAL_NGRAM
from rag.indexes import Asked, Base, Contents, Scored, Vector, contents_of, rows_of
from rag.keyword import KeywordBuilder
from rag.ngrams import DIMENSION, idf_from, query_vector


def scanned(base: Base, asked: Sequence[Asked]) -> list[Scored]:
    """
    What an index would say to each of some questions, slower.

    Reads every chunk once for all of them, with n-grams twice.
    """
    contents = contents_of(base.id)
    vectors = [question.vector for question in asked]
    if base.embedding_model == LOCAL_NGRAM:
        idf = scanned_idf(contents)
        vectors = [query_vector(question.text, idf) for question in asked]
    dense = [[np.zeros(0, np.float32)] for _ in asked]
    only = np.unique(np.concatenate([question.terms for question in asked]))
    keyword = KeywordBuilder(only=only)
    for part in rows_of(contents, "embedding", "terms"):
        keyword.add([terms for _, terms in part])
        rows = [row for row, _ in part]
        for vector, scores in zip(vectors, dense, strict=True):
            if vector is not None:
                block = block_of(rows, dimension=len(vector))
                scores.append(block.scores(vector))
    index = keyword.finish()
    return [
        Scored(
            ids=contents.ids,
            terms=question.terms,
            dense=None if vector is None else np.concatenate(scores),
            keyword=index.scores(question.terms),
            index=index,
        )
        for question, vector, scores in zip(asked, vectors, dense, strict=True)
    ]


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
