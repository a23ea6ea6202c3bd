"""
What is looked for, and where it stands in a text; and texts as marks in an index. Pure.

A query is made of words. A run of a script without spaces is found wherever its
characters stand side by side; any other word only whole. Case and width are nothing.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llmbackend.unspaced import MARKS, RANGES, UNSPACED

Marks = NDArray[np.uint64]
Span = tuple[int, int]
Number = TypeVar("Number", np.int64, np.uint64)

# A mark is a bucket, the rest of a hash, and the number of a text: 8, 20 and 12 bits.
BUCKETS = 256
TEXTS = 1 << 12
_TEXT_BITS, _HASH_BITS = 12, 28

_BEFORE, _AFTER = 40, 120

_unspaced = "".join(f"{first}-{last}" for first, last in RANGES)
_RUN = re.compile(f"[{_unspaced}]+")
_WORD = re.compile(rf"(?:[^\W_{_unspaced}]|[{MARKS}])+")
_EITHER = re.compile(f"{_RUN.pattern}|{_WORD.pattern}")


class _Folding(dict[int, str]):
    """Each character without case and width, as one character: places stay."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        plain = unicodedata.normalize("NFKC", character).casefold()
        self[code] = plain if len(plain) == 1 else character
        return self[code]


_FOLDING = _Folding()
# What is wide in most Chinese texts; the rest of them is as it should be.
_WIDE = dict(zip("，：；！？（）\u3000", ",:;!?() ", strict=True))


@dataclass(frozen=True, slots=True)
class Snippet:
    """A hit in its context; `ranges` are offsets into `text`, in code points."""

    text: str
    ranges: list[Span]


def folded(text: str) -> str:
    """
    A text in the form that is compared, as long as it was.

    >>> folded("Ｒｕｓｔ, Straße")
    'rust, straße'
    """
    for wide, narrow in _WIDE.items():
        text = text.replace(wide, narrow)
    # The same, ten times as quick: none of its characters is another when normalized,
    # and none becomes several without its case.
    if unicodedata.is_normalized("NFKC", text):
        plain = text.casefold()
        if len(plain) == len(text):
            return plain
    return text.translate(_FOLDING)


def words_of(query: str) -> list[str]:
    """
    The words that all must occur; none where the query has no letter and no digit.

    >>> words_of("GPT-4 怎么用？ gpt")
    ['gpt', '4', '怎么用']
    """
    return list(dict.fromkeys(_EITHER.findall(folded(query))))


def spans(text: str, words: Sequence[str]) -> list[Span]:
    """Where the words stand in a text, from left to right; none unless all do."""
    plain = folded(text)
    found: list[Span] = []
    for word in words:
        if word not in plain:
            return []
        bounded = [
            match.span()
            for match in re.finditer(re.escape(word), plain)
            if _is_unspaced(word) or _stands_alone(plain, *match.span())
        ]
        if not bounded:
            return []
        found += bounded
    return sorted(found)


def snippet(text: str, found: Sequence[Span]) -> Snippet:
    """The first of the places in a text, with what stands around it."""
    start = max(0, found[0][0] - _BEFORE)
    end = max(found[0][1], found[0][0] + _AFTER)
    inside = [(a - start, b - start) for a, b in found if b <= end]
    return Snippet(text=text[start:end], ranges=_joined(inside))


def _joined(ranges: Sequence[Span]) -> list[Span]:
    """Without overlaps, which two words of a query may have."""
    apart: list[Span] = []
    for start, end in ranges:
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def _is_unspaced(word: str) -> bool:
    return bool(_RUN.match(word))


def _stands_alone(plain: str, start: int, end: int) -> bool:
    """Whether no further letter is part of the word."""
    before, after = plain[start - 1 : start], plain[end : end + 1]
    return not (_WORD.match(before) or _WORD.match(after))


def hashes_of(words: Sequence[str]) -> list[int]:
    """What a text's marks have in common with every text that holds the words."""
    found: set[int] = set()
    for word in words:
        codes = _codes(word)
        if not _is_unspaced(word):
            found.add(_word_hash(word))
        elif len(codes) == 1:
            found.update(_hashed(codes, np.uint32(0)).tolist())
        else:
            found.update(_hashed(codes[:-1], codes[1:]).tolist())
    return sorted(found)


def marks_of(texts: Sequence[str]) -> Marks:
    """
    Of at most TEXTS texts, each by its number here: characters, pairs and words.

    Ascending and distinct; `mark >> 32` is the bucket.
    """
    plain = [folded(text) for text in texts]
    codes = _codes("\n".join(plain))
    lengths = np.fromiter((len(text) + 1 for text in plain), np.int64, len(plain))
    numbers = np.repeat(np.arange(len(plain), dtype=np.uint64), lengths)[: len(codes)]
    single = UNSPACED[codes]
    pair = single[:-1] & single[1:]
    words = [
        (_word_hash(word), number)
        for number, text in enumerate(plain)
        for word in set(_WORD.findall(text))
    ]
    table = np.array(words, np.uint64).reshape(-1, 2)
    every = [
        _marks(_hashed(codes[single], np.uint32(0)), numbers[single]),
        _marks(_hashed(codes[:-1][pair], codes[1:][pair]), numbers[:-1][pair]),
        _marks(table[:, 0], table[:, 1]),
    ]
    return distinct(np.concatenate(every))


def distinct(values: NDArray[Number]) -> NDArray[Number]:
    """The values once each, ascending; np.unique makes a hash table first."""
    ascending = np.sort(values)
    first = np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]
    return ascending.compress(first)


def bucket_of(hashed: int) -> int:
    return hashed >> (_HASH_BITS - 8)


def buckets(marks: Marks) -> dict[int, bytes]:
    """The lower halves of marks by bucket, as they are stored: ascending `<u4`."""
    bounds = np.searchsorted(marks >> np.uint64(32), np.arange(BUCKETS + 1))
    lower = marks.astype("<u4")
    return {
        number: lower[start:end].tobytes()
        for number, (start, end) in enumerate(pairwise(bounds))
        if start < end
    }


def numbers_in(stored: bytes | memoryview, hashed: int) -> NDArray[np.uint32]:
    """Of a stored bucket, the numbers of the texts that have the hash, ascending."""
    lower = np.frombuffer(stored, "<u4")
    first = (hashed & 0xFFFFF) << _TEXT_BITS
    start, end = np.searchsorted(lower, np.array([first, first + TEXTS], np.uint64))
    return (lower[start:end] & (TEXTS - 1)).astype(np.uint32)


def _marks(hashes: Marks, numbers: Marks) -> Marks:
    return (hashes << np.uint64(_TEXT_BITS)) | numbers


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) >> (32 - _HASH_BITS)


def _hashed(first: NDArray[np.uint32], second: NDArray[np.uint32] | np.uint32) -> Marks:
    """Pairs of code points, 0 for none, by the finalizer of SplitMix64."""
    x = (first.astype(np.uint64) << np.uint64(21)) | second
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x >> np.uint64(64 - _HASH_BITS)
