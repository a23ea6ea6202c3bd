"""
Keyword search: a BM25 index over stored rows of terms, in numpy; pure.

The score is Lucene's BM25: the sum, over the question's distinct terms, of
idf * count / (count + K1 * (1 - B + B * length / mean length)), where idf is
ln(1 + (n - df + 1/2) / (df + 1/2)) and a length is the number of a chunk's terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.scripts import are_unspaced, characters_in
from rag.sorting import Keys, Postings, Sorter
from rag.terms import MOST, Ids, Unpacked, unpack

K1 = 1.2
B = 0.75
# Rows read in one go: what holds the interpreter lock meanwhile takes about 1 ms.
SLICE = 512
# A posting is 24 bits of chunk and 8 of count.
COUNT_BITS = 8
MOST_ROWS = 1 << 24

Scores = NDArray[np.float32]


class KeywordIndex:
    """
    For every term the chunks it is in, a chunk being known by its place in the base.

    The postings of the term `ids[i]` lie from `starts[i]` to `starts[i + 1]`; each is
    24 bits of chunk and 8 of count.
    """

    def __init__(
        self,
        *,
        ids: Ids,
        starts: NDArray[np.int64],
        postings: Postings,
        lengths: NDArray[np.int64],
        unspaced: NDArray[np.bool],
    ) -> None:
        """
        `lengths` says how many terms each chunk has, `unspaced` which are written
        without spaces.
        """
        self.size = len(lengths)
        self.unspaced = unspaced
        self._ids, self._starts, self._postings = ids, starts, postings
        mean = float(lengths.sum()) / max(1, self.size) or 1.0
        self._dampers = (K1 * (1 - B + B / mean * lengths)).astype(np.float32)

    @classmethod
    def build(cls, rows: Sequence[bytes | memoryview]) -> KeywordIndex:
        """The index of a base whose chunks have these rows, in this order."""
        builder = KeywordBuilder()
        builder.add(rows)
        return builder.finish()

    @property
    def nbytes(self) -> int:
        """What the index keeps in memory: about 4 bytes a posting."""
        arrays = self._ids, self._starts, self._postings, self._dampers
        return sum(array.nbytes for array in arrays) + self.unspaced.nbytes

    def scores(self, question: Ids) -> Scores:
        """(size,) float32: the BM25 of every chunk, 0 for one without any term."""
        scores = np.zeros(self.size, np.float32)
        known, spans = self._found(question)
        weights = self.idf(question[known])
        for (start, end), weight in zip(spans.tolist(), weights, strict=True):
            postings = self._postings[start:end]
            chunks = (postings >> COUNT_BITS).astype(np.intp)
            counts = (postings & MOST).astype(np.float32)
            parts = self._dampers[chunks]
            parts += counts
            np.divide(counts, parts, out=parts)
            parts *= weight
            scores[chunks] += parts
        return scores

    def idf(self, terms: Ids) -> Scores:
        """
        (len(terms),) float32: how rare each is; one in no chunk is as one in a chunk.

        Else the unknown words of a question would outweigh the known in a small base.
        """
        known, spans = self._found(terms)
        found = np.ones(len(terms))
        found[known] = np.diff(spans, axis=1)[:, 0]
        return np.log1p((self.size - found + 0.5) / (found + 0.5)).astype(np.float32)

    def held(self, question: Ids, scores: Scores) -> float:
        """
        How much of the question the best chunk holds by its `scores`, 0..1.

        1 is when it holds every term often enough for more not to count.
        """
        most = float(self.idf(question).sum())
        return float(scores.max(initial=0)) / most if most else 0.0

    def known_share(self, question: Ids) -> float:
        """The share of the question's distinct terms that the base has; 0 of none."""
        known, _ = self._found(question)
        return float(known.mean()) if len(known) else 0.0

    def _found(self, terms: Ids) -> tuple[NDArray[np.bool], NDArray[np.int64]]:
        """
        Which of the terms are in the base, (len(terms),), and from where to where the
        postings of each of those lie, (m, 2).
        """
        if not len(self._ids):
            return np.zeros(len(terms), np.bool), np.zeros((0, 2), np.int64)
        at = np.searchsorted(self._ids, terms)
        known = self._ids.take(at, mode="clip") == terms
        spans = self._starts[at[known, np.newaxis] + np.arange(2)]
        return known, spans


class KeywordBuilder:
    """
    Collects rows, as they come from the database, for an index.

    With `only`, the index holds the postings of those terms alone, and gives them the
    very scores the whole index would: for a base too large to be kept in memory.
    """

    def __init__(self, *, only: Ids | None = None, rooms: Iterable[Keys] = ()) -> None:
        """
        `only` is ascending, as `question_terms` gives it. `rooms` are memory to sort
        in, free again when the index is finished; more is taken if need be.
        """
        self._only = only
        self._begin(rooms)

    def _begin(self, rooms: Iterable[Keys]) -> None:
        self._sorter = Sorter(rooms=rooms)
        self._size = 0
        self._lengths = [np.zeros(0, np.int64)]
        self._unspaced = [np.zeros(0, np.bool)]

    @property
    def postings(self) -> int:
        """How many postings the index would have now."""
        return len(self._sorter)

    def add(self, rows: Sequence[bytes | memoryview]) -> None:
        """The next chunks' rows; raises ValueError for damage or 2**24 chunks."""
        for start in range(0, len(rows), SLICE):
            self._add(unpack(rows[start : start + SLICE]))

    def _add(self, part: Unpacked) -> None:
        chunks = np.arange(self._size, self._size + len(part.sizes), dtype=np.uint32)
        self._size += len(chunks)
        if self._size > MOST_ROWS:
            raise ValueError(f"a keyword index holds at most {MOST_ROWS} chunks")
        lengths = _sums(part.counts, part.sizes)
        characters = _sums(characters_in(part), part.sizes)
        self._lengths.append(lengths)
        self._unspaced.append(are_unspaced(characters, lengths))
        postings = np.repeat(chunks << np.uint32(COUNT_BITS), part.sizes)
        postings |= part.counts
        ids = part.ids
        if self._only is not None:
            wanted = np.flatnonzero(np.isin(ids, self._only))
            ids, postings = ids[wanted], postings[wanted]
        self._sorter.put(ids, postings)

    def finish(self) -> KeywordIndex:
        """The index of all rows added; the builder is empty afterwards."""
        sorter, lengths, unspaced = self._sorter, self._lengths, self._unspaced
        self._begin(())
        postings = np.empty(len(sorter), np.uint32)
        ids, starts, end = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)], 0
        for keys in sorter.parts():
            start, end = end, end + len(keys)
            postings[start:end] = keys
            terms = (keys >> np.uint64(32)).astype(np.uint32)
            first = np.flatnonzero(np.diff(terms, prepend=~terms[:1]))
            ids.append(terms[first])
            starts.append(first + start)
        return KeywordIndex(
            ids=np.concatenate(ids),
            starts=np.concatenate([*starts, [end]]),
            postings=postings,
            lengths=np.concatenate(lengths),
            unspaced=np.concatenate(unspaced),
        )


def _sums(values: NDArray[np.uint8], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of each run of values, given the runs' sizes, some of them 0."""
    sums = np.zeros(len(sizes), np.int64)
    full = np.flatnonzero(sizes)
    starts = np.cumsum(sizes) - sizes
    sums[full] = np.add.reduceat(values, starts[full], dtype=np.int64)
    return sums
