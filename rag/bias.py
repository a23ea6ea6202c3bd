"""
What makes cosines larger or smaller whatever is asked, and a ranking without it; pure.

Some chunks are near to every question: those that are near to all other chunks, too
(hubs). And a chunk in the question's own script is nearer than one that says the same
in another, besides that only it can have a word of the question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.dense import DenseIndex

# How much of its nearness to the centre of the base a chunk loses.
CENTRALITY = 0.1
# A question of whose terms some chunk holds as much is answered in its own script.
# Between that and none, chunks in the other gain the more the less is held.
ENOUGH = 0.7
# Chunks in the other script gain this much of how much farther they are from the very
# question, at most: tables and code in a Chinese base, which have no language, are near
# to each other and hardly farther than its texts.
LIFTED = 1.5

Floats = NDArray[np.float32]
Flags = NDArray[np.bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """
    Of each chunk of a base how near it is to the base's centre, and whether it is
    written without spaces; (n,) each.

    `lift` is by how much cosines are lower across scripts than within one; None in a
    base of one script.
    """

    centrality: Floats
    unspaced: Flags
    lift: float | None

    @property
    def nbytes(self) -> int:
        """What it keeps in memory beside the keyword index, whose flags these are."""
        return self.centrality.nbytes

    def corrected(
        self, dense: Floats, *, spaced: bool, held: float
    ) -> tuple[Floats, Floats]:
        """
        Cosines to rank by, and what stands in for keywords, (n,) each.

        The latter is 0 for chunks in the question's script; for others it is what
        share of their scaled nearness counts as if it were keywords. `spaced` is
        whether the question is written with spaces, `held` how much of it the best
        chunk holds.
        """
        nearness = dense - np.float32(CENTRALITY) * self.centrality
        if self.lift is None:
            return nearness, np.zeros_like(dense)
        across = self.unspaced == spaced
        farther = float(dense[~across].mean() - dense[across].mean())
        lift = max(0.0, min(self.lift, LIFTED * farther))
        doubt = max(0.0, 1 - held / ENOUGH)
        gained = np.where(across, np.float32(doubt), np.float32(0))
        return nearness + np.float32(lift) * gained, gained


def bias_of(dense: DenseIndex, unspaced: Flags) -> Bias:
    """The bias of a base that is in memory; `unspaced` in its order."""
    centres = Centres(dimension=dense.matrix.shape[1])
    centres.add(dense.matrix, unspaced)
    return Bias(
        centrality=dense.scores(centres.centre), unspaced=unspaced, lift=centres.lift
    )


class Centres:
    """The centres of a base's vectors of unit length, by script."""

    def __init__(self, *, dimension: int) -> None:
        self._sums = np.zeros((2, dimension))
        self._counts = np.zeros(2, np.int64)

    def add(self, matrix: Floats, unspaced: Flags) -> None:
        """The next rows, (m, dimension), and which are written without spaces."""
        by_script = np.stack([unspaced, ~unspaced])
        self._sums += by_script.astype(np.float32) @ matrix
        self._counts += by_script.sum(axis=1)

    @property
    def centre(self) -> Floats:
        """(dimension,): the mean of all rows."""
        total = self._sums.sum(axis=0)
        centre: Floats = (total / max(1, self._counts.sum())).astype(np.float32)
        return centre

    @property
    def lift(self) -> float | None:
        """
        By how much the mean cosine of two chunks is lower across scripts.

        None where one script has less than two chunks.
        """
        n = self._counts
        if n.min() < 2:
            return None
        inner = self._sums @ self._sums.T
        # A chunk's cosine with itself says nothing.
        within = (inner.diagonal() - n) / (n * (n - 1))
        across = inner[0, 1] / (n[0] * n[1])
        return max(0.0, float(within.mean() - across))
