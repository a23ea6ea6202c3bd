"""A base too large for memory, scored in blocks as the database gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.bias import Bias, Centres
from rag.dense import DenseIndex
from rag.embedding_models import LOCAL_NGRAM
from rag.indexes import (
    TERMS,
    VECTORS,
    Asked,
    Base,
    ChunkIds,
    Scored,
    Vector,
    ids_of,
    stored,
)
from rag.keyword import KeywordBuilder, KeywordIndex
from rag.ngrams import DIMENSION, idf_from, query_vector


def scanned(base: Base, asked: Sequence[Asked]) -> list[Scored]:
    """
    What an index would say to each of some questions, slower.

    Reads the terms of every chunk once for all of them, and its vector twice.
    """
    ids = ids_of(base.id)
    index = scanned_keywords(ids, asked)
    vectors = [each.vector for each in asked if each.vector is not None]
    dense: Sequence[Vector | None] = [None] * len(asked)
    bias = None
    if base.embedding_model == LOCAL_NGRAM:
        idf = scanned_idf(ids)
        made = [query_vector(each.text, idf) for each in asked]
        dense = scanned_scores(ids, made)
    elif len(vectors) == len(asked):
        centres = scanned_centres(ids, index.unspaced, dimension=len(vectors[0]))
        *dense, centrality = scanned_scores(ids, [*vectors, centres.centre])
        bias = Bias(centrality=centrality, unspaced=index.unspaced, lift=centres.lift)
    return [
        Scored(
            ids=ids,
            terms=each.terms,
            dense=scores,
            keyword=index.scores(each.terms),
            index=index,
            bias=bias,
        )
        for each, scores in zip(asked, dense, strict=True)
    ]


def scanned_keywords(ids: ChunkIds, asked: Sequence[Asked]) -> KeywordIndex:
    """The keywords of a base that some questions ask for."""
    only = np.unique(np.concatenate([each.terms for each in asked]))
    keyword = KeywordBuilder(only=only)
    for terms in stored(TERMS, ids):
        keyword.add(terms)
    return keyword.finish()


def scanned_scores(ids: ChunkIds, vectors: Sequence[Vector]) -> list[Vector]:
    """For each vector its inner product with every row of a base, (n,)."""
    found: list[list[Vector]] = [[np.zeros(0, np.float32)] for _ in vectors]
    for block in blocks_of(ids, dimension=len(vectors[0])):
        for vector, scores in zip(vectors, found, strict=True):
            scores.append(block.scores(vector))
    return [np.concatenate(scores) for scores in found]


def scanned_centres(
    ids: ChunkIds, unspaced: NDArray[np.bool], *, dimension: int
) -> Centres:
    """The centres of a base, given which of its chunks are without spaces."""
    centres, start = Centres(dimension=dimension), 0
    for block in blocks_of(ids, dimension=dimension):
        end = start + len(block.matrix)
        centres.add(block.matrix, unspaced[start:end])
        start = end
    return centres


def scanned_idf(ids: ChunkIds) -> Vector:
    """How rare each bucket of n-grams is in a base: (DIMENSION,) float32."""
    used = np.zeros(DIMENSION, np.int64)
    for block in blocks_of(ids, dimension=DIMENSION):
        used += np.count_nonzero(block.matrix, axis=0)
    return idf_from(used, len(ids))


def blocks_of(ids: ChunkIds, *, dimension: int) -> Iterator[DenseIndex]:
    """The rows of a base, those deleted as zeros, some at a time."""
    for vectors in stored(VECTORS, ids):
        block = DenseIndex(size=len(vectors), dimension=dimension)
        block.fill([vector or bytes(4 * dimension) for vector in vectors])
        yield block
