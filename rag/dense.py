"""
Search by meaning: exact inner products with one float32 matrix per base; pure.

Rows are stored as little-endian float32 of unit length, so an inner product is a
cosine. Nothing is approximated: one pass over the matrix runs as fast as memory does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

STORED = np.dtype("<f4")
# Bytes of rows copied in one go: what holds the interpreter lock takes under 1 ms.
SLICE = 1 << 20
STRIDES = 64
# Numbers of 8 bytes in a piece of memory.
ROOM = 1 << 21

Floats = NDArray[np.float32]
Places = NDArray[np.intp]


def pack(vector: ArrayLike) -> bytes:
    """
    A vector scaled to unit length, as little-endian float32.

    Raises ValueError for one without a direction: zeros, or with NaN or infinity.

    >>> pack([0, 5]).hex()
    '000000000000803f'
    """
    exact = np.asarray(vector, np.float64).ravel()
    largest = float(np.abs(exact).max(initial=0.0))
    if not 0 < largest < np.inf:
        raise ValueError("a vector needs a direction: finite numbers, not all 0")
    scaled = exact / largest  # Its square can neither overflow nor vanish.
    return (scaled / np.linalg.norm(scaled)).astype(STORED).tobytes()


class DenseIndex:
    """The vectors of a base, in its order, in one matrix made for all of them."""

    def __init__(self, *, size: int, dimension: int) -> None:
        """Room for `size` rows, to be filled before the first search."""
        self._matrix = np.empty((size, dimension), np.float32)
        self._filled = 0

    @property
    def matrix(self) -> Floats:
        """(rows filled so far, dimension) float32, to be read only."""
        return self._matrix[: self._filled]

    @property
    def rooms(self) -> list[NDArray[np.uint64]]:
        """The memory of the rows, in pieces, for any use before they are filled."""
        flat = self._matrix.ravel()
        room = flat[: flat.size // 2 * 2].view(np.uint64)
        return [room[at : at + ROOM] for at in range(0, len(room), ROOM)]

    @property
    def nbytes(self) -> int:
        """What the index keeps in memory."""
        return self._matrix.nbytes

    def fill(self, rows: Sequence[bytes | memoryview]) -> None:
        """The next rows; raises ValueError for one of another length, or too many."""
        size, dimension = self._matrix.shape
        if self._filled + len(rows) > size:
            raise ValueError(f"the index has room for {size} rows")
        for part in _parts(rows, dimension):
            end = self._filled + len(part)
            self._matrix[self._filled : end] = part
            self._filled = end

    def scores(self, query: Floats) -> Floats:
        """(n,) float32: the inner product of every row with a (dimension,) query."""
        # Row by row, at the speed of memory; `@` takes twice as long for short rows.
        scores: Floats = np.vecdot(self.matrix, query)
        return scores


def top(scores: Floats, *, k: int) -> tuple[Places, Floats]:
    """
    The places and scores of the `k` best, best first; of equals the earliest.

    >>> places, scores = top(np.float32([0.5, 0.25, 1.0, 0.5]), k=2)
    >>> places.tolist(), scores.tolist()
    ([2, 0], [1.0, 0.5])
    """
    # Methods, not numpy's functions, whose wrappers are worth a per cent here.
    places = (scores >= _floor(scores, k)).nonzero()[0]
    order = (-scores[places]).argsort(kind="stable")[: max(0, k)]
    places = places[order]
    return places, scores[places]


def _floor(scores: Floats, k: int) -> float:
    """A score that `k` rows or more reach, and not many more."""
    columns = len(scores) // STRIDES
    if columns >= k:
        # The k best of the columns' maxima are k scores, and few to look at.
        table = scores[: columns * STRIDES].reshape(STRIDES, columns)
        most = table.max(axis=0)
    else:
        most = scores.copy()
    if not 0 < k < len(most):
        return -np.inf
    most.partition(len(most) - k)
    return float(most[len(most) - k])


def _parts(rows: Sequence[bytes | memoryview], dimension: int) -> Iterable[Floats]:
    """Stored rows as (m, dimension) float32 matrices of about SLICE bytes."""
    width = STORED.itemsize * dimension
    step = max(1, SLICE // max(1, width))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if any(len(row) != width for row in part):
            raise ValueError(f"a stored vector is not {width} bytes long")
        stored = np.frombuffer(b"".join(part), STORED)
        yield stored.reshape(-1, dimension).astype(np.float32, copy=False)
