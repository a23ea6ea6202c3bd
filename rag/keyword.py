"""
Keyword search: a BM25 index over stored rows of terms, in numpy; pure.

The score is Lucene's BM25: the sum, over the question's distinct terms, of
idf * count / (count + K1 * (1 - B + B * length / mean length)), where idf is
ln(1 + (n - df + 1/2) / (df + 1/2)) and a length is the number of a chunk's terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag.scripts import are_unspaced, characters_in
from rag.terms import MOST, Ids, Unpacked, unpack

K1 = 1.2
B = 0.75
# Rows read in one go: what holds the interpreter lock meanwhile takes about 1 ms.
SLICE = 512
# Sort keys looked at in one go.
KEYS = 1 << 16
# A sort key is 32 bits of term, 24 of chunk and 8 of count; a posting is the last two.
COUNT_BITS = 8
MOST_ROWS = 1 << 24

Keys = NDArray[np.uint64]
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
        postings: NDArray[np.uint32],
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

    def __init__(self, *, postings: int = 0, only: Ids | None = None) -> None:
        """
        `postings`, if it is known, is how many there will be: their memory is taken
        once. `only` is ascending, as `question_terms` gives it.
        """
        self._only = only
        self._keys = np.empty(postings, np.uint64)
        self._used = 0
        self._lengths: list[NDArray[np.int64]] = []
        self._unspaced: list[NDArray[np.bool]] = []
        self._size = 0

    def add(self, rows: Sequence[bytes | memoryview]) -> None:
        """The next chunks' rows; raises ValueError for damage or 2**24 chunks."""
        for start in range(0, len(rows), SLICE):
            self._add(unpack(rows[start : start + SLICE]))

    def _add(self, part: Unpacked) -> None:
        chunks = np.arange(self._size, self._size + len(part.sizes), dtype=np.uint64)
        self._size += len(chunks)
        if self._size > MOST_ROWS:
            raise ValueError(f"a keyword index holds at most {MOST_ROWS} chunks")
        of = np.repeat(chunks, part.sizes)
        lengths = _sums(part.counts, part.sizes)
        characters = _sums(characters_in(part), part.sizes)
        self._lengths.append(lengths)
        self._unspaced.append(are_unspaced(characters, lengths))
        if self._only is not None:
            wanted = np.flatnonzero(np.isin(part.ids, self._only))
            part = Unpacked(part.ids[wanted], part.counts[wanted], part.sizes)
            of = of[wanted]
        keys = part.ids.astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= of << np.uint64(COUNT_BITS)
        keys |= part.counts
        self._put(keys)

    def _put(self, keys: Keys) -> None:
        end = self._used + len(keys)
        if end > len(self._keys):
            larger = np.empty(max(end, 2 * len(self._keys)), np.uint64)
            larger[: self._used] = self._keys[: self._used]
            self._keys = larger
        self._keys[self._used : end] = keys
        self._used = end

    def finish(self) -> KeywordIndex:
        """The index of all rows added; the builder is empty afterwards."""
        keys, self._keys = self._keys, np.empty(0, np.uint64)
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        unspaced = np.concatenate([np.zeros(0, np.bool), *self._unspaced])
        used, self._used, self._lengths, self._size = self._used, 0, [], 0
        self._unspaced = []
        # Terms together, and within one its chunks in order; this is most of the work,
        # and numpy lets other threads run meanwhile.
        keys[:used].sort()
        ids, starts = _runs(keys[:used])
        postings = _lower_halves(keys, size=used)
        return KeywordIndex(
            ids=ids,
            starts=starts,
            postings=postings,
            lengths=lengths,
            unspaced=unspaced,
        )


def _lower_halves(keys: Keys, *, size: int) -> NDArray[np.uint32]:
    """
    The lower 32 bits of the first `size` keys, in the memory of `keys`, of which the
    rest is given back: a copy would need half as much again.
    """
    halves = keys.view(np.uint32)
    for part in _slices(size):
        halves[part] = keys[part]
    del halves
    keys.resize((size + 1) // 2, refcheck=False)
    return keys.view(np.uint32)[:size]


def _runs(keys: Keys) -> tuple[Ids, NDArray[np.int64]]:
    """The distinct terms of sorted keys, and where each begins, the end added."""
    starts = [np.zeros(min(1, len(keys)), np.int64)]
    for part in _slices(len(keys) - 1):
        terms = keys[part.start : part.stop + 1] >> np.uint64(32)
        starts.append(np.flatnonzero(terms[1:] != terms[:-1]) + (part.start + 1))
    first = np.concatenate(starts)
    terms = keys[first] >> np.uint64(32)
    return terms.astype(np.uint32), np.append(first, len(keys))


def _slices(size: int) -> list[slice]:
    """A long array in parts that stay in a core's cache, with what is made of them."""
    return [slice(start, min(start + KEYS, size)) for start in range(0, size, KEYS)]


def _sums(values: NDArray[np.uint8], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of each run of values, given the runs' sizes, some of them 0."""
    sums = np.zeros(len(sizes), np.int64)
    full = np.flatnonzero(sizes)
    starts = np.cumsum(sizes) - sizes
    sums[full] = np.add.reduceat(values, starts[full], dtype=np.int64)
    return sums
