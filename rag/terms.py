"""
Text -> the terms keyword search knows it by, as numbers; pure.

A term is a word, or in a script written without spaces a character or a pair of
neighbours. It is known by a 32-bit hash, so there is no vocabulary to store, to share
or to lock. 64 bits would nearly double a row and buy nothing: in a base of a million
distinct terms, a word that does not occur is taken for one that does once in 4,000.

Rows are stored: what a text's ids are must never change.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llmbackend.unspaced import MARKS, UNSPACED

Ids = NDArray[np.uint32]

# A stored term: id, and how often it occurs in the chunk, 255 meaning that or more.
RECORD = np.dtype([("id", "<u4"), ("count", "u1")])
MOST = 255
LONGEST_WORD = 64

_VOWELS = frozenset("aeiouy")

WORD = re.compile(rf"[\w{MARKS}]+")

# What English and Chinese questions share with every text. Kept in the rows, since the
# only word of a Chinese question may be IT, or all of an English one The Who.
_COMMON = (
    "a about after all also an and any are as at be been before being between both but "
    "by can could did do does doing during each for from had has have having he her "
    "here him his how i if in into is it its just me more most my no nor not of off on "
    "once only or other our out over own same she should so some such than that the "
    "their them then there these they this those through to too under until up very "
    "was we were what when where which while who whom whose why will with would you "
    "your 的了是在和与或及而也就都被把从由于之其这那们吗呢吧着得以为对所但并将更最很"
    "此该等个一不有他她它我你什么哪谁怎样何几與從於這們嗎著為對並將該個麼誰樣幾"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The ids of a text's terms by kind, each shape (m,) uint32, one an occurrence."""

    words: Ids
    characters: Ids
    pairs: Ids


@dataclass(frozen=True, slots=True)
class Unpacked:
    """
    Rows one after another: `ids` uint32 and `counts` uint8, one a term of a row;
    `sizes` (rows,) int64, the number of terms of each row.
    """

    ids: Ids
    counts: NDArray[np.uint8]
    sizes: NDArray[np.int64]


def terms_of(text: str) -> Terms:
    """Every term of a text, in reading order within each kind; no text has none."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), "<u4")
    unspaced = UNSPACED[codes]
    if unspaced.any():
        spaced = np.where(unspaced, np.uint32(ord(" ")), codes).tobytes()
        folded = spaced.decode("utf-32-le", "surrogatepass")
    pairs = unspaced[:-1] & unspaced[1:]
    return Terms(
        words=_ids(_word_id(word[:LONGEST_WORD]) for word in WORD.findall(folded)),
        characters=character_ids(codes[unspaced]),
        pairs=_hashed(codes[:-1][pairs], codes[1:][pairs]),
    )


def character_ids(codes: Ids) -> Ids:
    """The ids of characters without spaces, by their code points."""
    return _hashed(codes, np.uint32(0))


def pack_terms(text: str) -> bytes:
    """
    A text's distinct terms, ascending by id, as bytes: RECORDs of 5, little-endian.

    >>> len(pack_terms("Cats and cats")), len(pack_terms("猫和猫"))
    (10, 20)
    """
    terms = terms_of(text)
    every = np.concatenate([terms.words, terms.characters, terms.pairs])
    ids, counts = np.unique(every, return_counts=True)
    row = np.empty(len(ids), RECORD)
    row["id"] = ids
    row["count"] = np.minimum(counts, MOST)
    return row.tobytes()


def unpack(rows: Sequence[bytes | memoryview]) -> Unpacked:
    """The terms of many rows at once; raises ValueError for what is no row."""
    sizes, cut = np.divmod(np.fromiter(map(len, rows), np.int64, len(rows)), 5)
    if cut.any():
        raise ValueError("a row of terms is not made of whole records")
    records = np.frombuffer(b"".join(rows), RECORD)
    return Unpacked(
        ids=records["id"].astype(np.uint32),
        counts=records["count"].copy(),
        sizes=sizes,
    )


def question_terms(text: str) -> Ids:
    """
    The distinct terms to look a question up by, ascending; no text has none.

    Without common words and characters, which lifts the right paragraph on XQuAD in
    both languages and spares the longest posting lists.
    """
    terms = telling(terms_of(text))
    return np.unique(np.concatenate([terms.words, terms.characters, terms.pairs]))


def telling(terms: Terms) -> Terms:
    """The terms without the common ones, where others of their kind remain."""
    return Terms(
        words=_without_common(terms.words),
        characters=_without_common(terms.characters),
        pairs=terms.pairs,
    )


def _without_common(ids: Ids) -> Ids:
    common = _common()
    at = np.searchsorted(common, ids)
    kept = ids[common.take(at, mode="clip") != ids]
    return kept if len(kept) else ids


@lru_cache(maxsize=1)
def _common() -> Ids:
    terms = terms_of(_COMMON)
    return np.unique(np.concatenate([terms.words, terms.characters]))


def stem(word: str) -> str:
    """
    A word without its commonest English endings, much as the Porter stemmer's first
    step; what holds more than a-z is left alone.

    >>> [stem(word) for word in ["cities", "running", "planned", "makes", "gpt4"]]
    ['citi', 'run', 'plan', 'mak', 'gpt4']
    """
    if len(word) < 4 or not (word.isascii() and word.isalpha()):
        return word
    word = _without_participle(_without_plural(word))
    if len(word) > 4 and word.endswith("ly"):
        word = word[:-2]
    if len(word) > 3 and word[-1] == "y":
        return word[:-1] + "i"
    return word[:-1] if len(word) > 3 and word[-1] == "e" else word


def _without_plural(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("sses"):
        return word[:-2]
    if word[-1] == "s" and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _without_participle(word: str) -> str:
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root == word or len(root) < 3 or not _VOWELS.intersection(root):
            continue
        doubled = root[-1] == root[-2] and root[-1] not in "lsz"
        return root[:-1] if doubled else root
    return word


def _ids(ids: Iterable[int]) -> Ids:
    return np.fromiter(ids, np.uint32)


@lru_cache(maxsize=1 << 16)
def _word_id(word: str) -> int:
    return zlib.crc32(stem(word).encode("utf-8", "surrogatepass"))


def _hashed(first: Ids, second: Ids | np.uint32) -> Ids:
    """Pairs of code points, 0 for none, -> ids, by the finalizer of SplitMix64."""
    x = (first.astype(np.uint64) << np.uint64(21)) | second
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(32)).astype(np.uint32)
