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

from rag.terms import Ids, Unpacked, unpack

K1 = 1.2
B = 0.75
# Rows read in one go: what holds the interpreter lock meanwhile takes about 1 ms.
SLICE = 512
# Sort keys looked at in one go.
KEYS = 1 << 16
# A sort key is 32 bits of term, 24 of chunk and 8 of count.
MOST_ROWS = 1 << 24

Keys = NDArray[np.uint64]
Scores = NDArray[np.float32]


class KeywordIndex:
    """
    For every term the chunks it is in, a chunk being known by its place in the base.

    The postings of the term `ids[i]` lie from `starts[i]` to `starts[i + 1]`.
    """

    def __init__(self, keys: Keys, lengths: NDArray[np.int64]) -> None:
        """From sorted keys, and how many terms each chunk has."""
        self.size = len(lengths)
        self._ids, self._starts = _runs(keys)
        self._chunks = np.empty(len(keys), np.uint32)
        self._counts = np.empty(len(keys), np.uint8)
        for part in _slices(len(keys)):
            self._counts[part] = keys[part]
            self._chunks[part] = (keys[part] >> np.uint64(8)) & np.uint64(0xFFFFFF)
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
        """What the index keeps in memory: about 5 bytes a posting."""
        arrays = self._ids, self._starts, self._chunks, self._counts, self._dampers
        return sum(array.nbytes for array in arrays)

    def scores(self, question: Ids) -> Scores:
        """(size,) float32: the BM25 of every chunk, 0 for one without any term."""
        scores = np.zeros(self.size, np.float32)
        known, spans = self._postings(question)
        weights = self.idf(question[known])
        for (start, end), weight in zip(spans.tolist(), weights, strict=True):
            chunks = self._chunks[start:end].astype(np.intp)
            counts = self._counts[start:end].astype(np.float32)
            parts = self._dampers[chunks]
            parts += counts
            np.divide(counts, parts, out=parts)
            parts *= weight
            scores[chunks] += parts
        return scores

    def idf(self, terms: Ids) -> Scores:
        """(len(terms),) float32: how rare each is, the rarest being in no chunk."""
        known, spans = self._postings(terms)
        found = np.zeros(len(terms))
        found[known] = np.diff(spans, axis=1)[:, 0]
        return np.log1p((self.size - found + 0.5) / (found + 0.5)).astype(np.float32)

    def known_share(self, question: Ids) -> float:
        """The share of the question's distinct terms that the base has; 0 of none."""
        known, _ = self._postings(question)
        return float(known.mean()) if len(known) else 0.0

    def _postings(self, terms: Ids) -> tuple[NDArray[np.bool], NDArray[np.int64]]:
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

    def __init__(self, *, only: Ids | None = None) -> None:
        """`only` is ascending, as `question_terms` gives it."""
        self._only = only
        self._keys: list[Keys] = []
        self._lengths: list[NDArray[np.int64]] = []
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
        self._lengths.append(_sums(part.counts, part.sizes))
        if self._only is not None:
            wanted = np.flatnonzero(np.isin(part.ids, self._only))
            part = Unpacked(part.ids[wanted], part.counts[wanted], part.sizes)
            of = of[wanted]
        keys = part.ids.astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= of << np.uint64(8)
        keys |= part.counts
        self._keys.append(keys)

    def finish(self) -> KeywordIndex:
        """The index of all rows added; the builder is empty afterwards."""
        keys = _joined(self._keys)
        # Terms together, and within one its chunks in order; this is most of the work,
        # and numpy lets other threads run meanwhile.
        keys.sort()
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        self._lengths, self._size = [], 0
        return KeywordIndex(keys, lengths)


def _joined(parts: list[Keys]) -> Keys:
    """One array of the parts, each freed once copied, so that memory holds one."""
    end = sum(map(len, parts))
    joined = np.empty(end, np.uint64)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined


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
    edges = np.append(0, np.cumsum(sizes))
    until = np.append(0, np.cumsum(values, dtype=np.int64))
    sums: NDArray[np.int64] = np.diff(until[edges])
    return sums
