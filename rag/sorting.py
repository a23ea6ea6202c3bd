"""
Millions of postings in the order of their terms, by counting; pure.

To sort numbers numpy compares them; those of 8 or 16 bits it counts, which takes a
fraction of the time as long as they are in a core's cache. So the keys come in slices,
each of which is put in the order of the upper 8 bits of its terms; in the end, what all
slices have under the same bits is taken together, and put in the order of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from rag.terms import Ids

UPPER = 256
# Keys put in order at once in the end, or somewhat more.
KEYS = 1 << 17
# Keys that there is made room for when there is none. Of so large a piece the system
# gives only what is used, and has it back at once.
BLOCK = 1 << 23

# 32 bits of term and 32 of posting.
Keys = NDArray[np.uint64]
Postings = NDArray[np.uint32]


class Sorter:
    """Takes the postings of terms, in slices, and gives them in the terms' order."""

    def __init__(self, *, rooms: Iterable[Keys] = ()) -> None:
        """`rooms` are memory to be used before more is taken."""
        self._rooms = iter(rooms)
        self._room = np.empty(0, np.uint64)
        self._slices: list[Keys] = []
        # Of each slice where the keys of each upper 8 bits begin, and the end.
        self._bounds: list[NDArray[np.intp]] = []
        self._size = 0

    def __len__(self) -> int:
        """How many postings there are."""
        return self._size

    def put(self, ids: Ids, postings: Postings) -> None:
        """Postings, and which terms they are of."""
        keys = ids.astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= postings
        upper = (ids >> np.uint32(24)).astype(np.uint8)
        order = upper.argsort(kind="stable")
        room = self._taken(len(keys))
        self._slices.append(keys.take(order, out=room, mode="clip"))
        self._bounds.append(upper[order].searchsorted(np.arange(UPPER + 1)))
        self._size += len(keys)

    def _taken(self, size: int) -> Keys:
        while size > len(self._room):
            room = next(self._rooms, None)
            more = max(size, BLOCK)
            self._room = np.empty(more, np.uint64) if room is None else room
        taken, self._room = self._room[:size], self._room[size:]
        return taken

    def parts(self) -> Iterator[Keys]:
        """All keys, some at a time; those of a term as they came."""
        if not self._size:
            return
        step = min(max(1, UPPER * KEYS // self._size), UPPER)
        bounds = np.stack(self._bounds)
        for upper in range(0, UPPER, step):
            starts = bounds[:, upper].tolist()
            ends = bounds[:, min(upper + step, UPPER)].tolist()
            spans = zip(self._slices, starts, ends, strict=True)
            yield _by_term(np.concatenate([keys[a:b] for keys, a, b in spans]))


def _by_term(keys: Keys) -> Keys:
    """The keys in the order of their terms, of equal ones in that they are in."""
    for shift in (32, 48):
        half = (keys >> np.uint64(shift)).astype(np.uint16)
        keys = keys.take(half.argsort(kind="stable"))
    return keys
