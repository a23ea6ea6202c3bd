"""
One ranking out of two: by meaning and by keywords; pure.

Each side's best 100 are scaled to 0..1 (min-max) and added by weight. Beside a strong
embedder the keywords weigh less the fewer of the question's terms the base knows: a
question in another language is then ranked by its meaning alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.dense import top

Mode = Literal["hybrid", "dense", "keyword"]

# How many of each side's best are taken into account.
DEPTH = 100
KEYWORD_WEIGHT = 0.5
KEYWORD_WEIGHT_BESIDE_NGRAMS = 0.7

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """
    A row of a base and how well it fits: `score` is in 0..1.

    `dense` and `keyword` are what each search gave it, 0 from one that did not find it.
    """

    row: int
    score: float
    dense: float
    keyword: float


def keyword_weight(mode: Mode, *, strong_embedder: bool, known_share: float) -> float:
    """
    What the keyword side weighs, 0..1; the dense side weighs the rest.

    `known_share` is the share of the question's terms that the base has.
    """
    if mode != "hybrid":
        return 1.0 if mode == "keyword" else 0.0
    if not strong_embedder:
        return KEYWORD_WEIGHT_BESIDE_NGRAMS
    return KEYWORD_WEIGHT * known_share


def fused(
    dense: Floats,
    keyword: Floats,
    *,
    weight: float,
    nearness: Floats | None = None,
    stand_in: Floats | None = None,
) -> list[Ranked]:
    """
    What either side found, best first; of equals the row that comes first.

    Takes both sides' scores of every row, (n,) each. Keywords find only what has a term
    of the question, a score above 0. A side that weighs nothing finds nothing. Rows are
    ranked by `nearness` in place of `dense`, if it is given, and by `stand_in` of its
    scaled value where keywords say less.

    >>> near, named = np.float32([1, 0.5, 0]), np.float32([0, 2, 4])
    >>> [(found.row, found.score) for found in fused(near, named, weight=0.25)]
    [(0, 0.75), (1, 0.5), (2, 0.25)]
    """
    near = _best(dense if nearness is None else nearness) if weight < 1 else _NOTHING
    named = _best(keyword, found=keyword > 0) if weight > 0 else _NOTHING
    rows = np.union1d(near.rows, named.rows)
    meant, said = _at(rows, near, near.scaled), _at(rows, named, named.scaled)
    if stand_in is not None:
        said = np.maximum(said, stand_in[rows] * meant)
    scores = (1 - weight) * meant + weight * said
    order = np.argsort(-scores, kind="stable")
    columns = (
        rows[order],
        scores[order].clip(0, 1),
        _at(rows, near, dense[near.rows])[order],
        _at(rows, named, named.scores)[order],
    )
    return [
        Ranked(row=row, score=score, dense=nearness, keyword=naming)
        for row, score, nearness, naming in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def blended(rankings: Sequence[list[Ranked]], weights: Sequence[float]) -> list[Ranked]:
    """
    Rankings of one base as one: a row's score is the sum of its scores by weight.

    What either search gave it is what it gave it for the first of them.
    """
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for found in ranking:
            scores[found.row] = scores.get(found.row, 0.0) + weight * found.score
    first = {found.row: found for found in rankings[0]}
    every = [
        replace(first.get(row) or Ranked(row=row, score=0, dense=0, keyword=0), score=s)
        for row, s in scores.items()
    ]
    return sorted(every, key=lambda found: (-found.score, found.row))


@dataclass(frozen=True, slots=True)
class _Side:
    """A side's best rows, their scores, and those from 0 to 1; all (m,)."""

    rows: Rows
    scores: Floats
    scaled: Floats


_NOTHING = _Side(np.zeros(0, np.intp), np.zeros(0, np.float32), np.zeros(0, np.float32))


def _best(scores: Floats, *, found: NDArray[np.bool] | None = None) -> _Side:
    """
    The worst of the best 100 scales to 0, be it found or not: where few chunks have a
    term of the question, having one counts. Where all are equal, all scale to 1.
    """
    rows, best = top(scores, k=DEPTH)
    above = best - best.min(initial=np.inf)
    most = above.max(initial=0.0)
    scaled = above / most if most else np.ones_like(best)
    kept = slice(None) if found is None else found[rows]
    return _Side(rows[kept], best[kept], scaled[kept])


def _at(rows: Rows, side: _Side, values: Floats) -> Floats:
    """A side's values at its rows among all the `rows` (ascending), and 0 elsewhere."""
    spread = np.zeros(len(rows), np.float32)
    spread[np.searchsorted(rows, side.rows)] = values
    return spread
