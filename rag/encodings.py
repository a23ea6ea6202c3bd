"""Which encoding a text file is in: found without guessing in silence."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import charset_normalizer

from llmbackend.errors import UnknownEncoding, UnsupportedType
from rag.languages import (
    ALPHABETS,
    EAST_ASIAN,
    Language,
    arabic,
    baltic,
    central_european,
    greek,
    japanese,
    korean,
    russian,
    simplified_chinese,
    traditional_chinese,
    turkish,
    western,
)

BINARY = "This file holds binary data, not text."
_SAMPLE_BYTES = 64 << 10
# A kilobyte of UTF-8 may hold ten stray NULs; up to a hundred, if it is no UTF-16.
_STRAY_NULS = 0.01
_MOST_NULS = 0.1
# In bits a byte: text in its right encoding costs 4 to 7, and 10 where every word is
# rare; what was decoded wrongly, or is no text, from 8 up.
_WORST_COST = 9.5
_WORST_COST_WITH_NULS = 8.5
# Of a text's characters, those that steer a terminal.
_MOST_CONTROLS = 0.005
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# The likelihood ratio, in bits, by which the best must beat what reads differently.
_MARGIN = 5.0
# How much rarer, in bits, an encoding is that only charset-normalizer thought of.
_RARE = 15.0

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16: its mark begins with that one's.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
# What leads over to another script in encodings of 7 bits, whose texts pass for ASCII.
_ESCAPES = (
    (b"\x1b$)C", "iso2022_kr"),
    (b"\x1b$", "iso2022_jp"),
    (b"\x1b$", "iso2022_jp_ext"),
)
_NOT_OF_FILES = {"idna", "punycode", "unicode_escape", "raw_unicode_escape"}
_UTF16 = ("utf-16-le", "utf-16-be")
# These differ in a few signs: the first that can read the data is the one.
_BIG5 = {"big5", "cp950", "big5hkscs"}
# The first of those that read alike is the one named.
_LANGUAGES: dict[str, tuple[Callable[[], tuple[Language, ...]], ...]] = {
    "gb18030": (simplified_chinese, traditional_chinese),
    "big5": (traditional_chinese,),
    "cp950": (traditional_chinese,),
    "big5hkscs": (traditional_chinese,),
    "cp932": (japanese,),
    "euc_jp": (japanese,),
    "cp949": (korean,),
    "cp1252": (western,),
    "cp1251": (russian,),
    "koi8_r": (russian,),
    "cp1250": (central_european,),
    "iso8859-2": (central_european,),
    "cp1254": (turkish,),
    "cp1257": (baltic,),
    "cp850": (western,),
    "cp852": (central_european,),
    "mac-roman": (western,),
    "iso8859-5": (russian,),
    "cp866": (russian,),
    "cp1253": (greek,),
    "cp1256": (arabic,),
}
# How much rarer, in bits, some of these are than the others.
_RARER = dict.fromkeys((*_LANGUAGES, *_UTF16), 0.0) | {
    **dict.fromkeys(("cp1250", "iso8859-2", "cp1254", "cp1257", "cp1256"), 10.0),
    **dict.fromkeys(("cp850", "cp852", "cp866", "cp1253"), _RARE),
    **dict.fromkeys(("mac-roman", "iso8859-5"), _RARE),
}


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A text without NULs and lone surrogates, and Python's name of its encoding."""

    text: str
    encoding: str


def decode(data: bytes, *, encoding: str = "") -> Decoded:
    """
    Decode a whole file, in `encoding` if the sender named one.

    Raises UnknownEncoding where the name is not known, the bytes are not of the named
    encoding, or no encoding fits clearly better than another; UnsupportedType for a
    binary file.
    """
    if encoding:
        return _as_named(data, known(encoding))
    for bom, name in _BOMS:
        if data.startswith(bom):
            return _as_named(data, name)
    for escape, name in _ESCAPES:
        if escape in data and _strictly(data, name) is not None:
            return _as_named(data, name)
    nuls = data.count(0)
    text = _strictly(data, "utf-8")
    if text is not None and nuls <= len(data) * _STRAY_NULS:
        return Decoded(text=clean(text), encoding="utf-8")
    encoding = _most_plausible(data, [*_UTF16] if nuls else _all_that_may_be(data))
    if encoding:
        return _as_named(data, encoding)
    if text is not None and nuls <= len(data) * _MOST_NULS and _is_text(clean(text)):
        return Decoded(text=clean(text), encoding="utf-8")
    raise UnsupportedType(BINARY) if nuls else UnknownEncoding


def known(encoding: str) -> str:
    """Python's name of a text encoding; raises UnknownEncoding for any other name."""
    try:
        found = codecs.lookup(encoding)
        "".encode(found.name)  # Of the codecs that are no encodings, some compress.
    except (LookupError, ValueError, UnicodeError):
        raise UnknownEncoding("There is no encoding of this name.") from None
    if found.name.replace("-", "_") in _NOT_OF_FILES:
        raise UnknownEncoding("There is no encoding of this name.")
    return found.name


def clean(text: str) -> str:
    r"""`text` without what no database stores: NULs and lone surrogates.

    >>> clean("a\0b\ud800c")
    'abc'
    """
    return _UNSTORABLE.sub("", text)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def _as_named(data: bytes, encoding: str) -> Decoded:
    text = _strictly(data, encoding)
    if text is None:
        raise UnknownEncoding(f"The file is not in the encoding {encoding}.")
    return Decoded(text=clean(text.removeprefix("\ufeff")), encoding=encoding)


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeError:
        return None


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A sample of the data read in one encoding; `cost` in bits, of all its bytes."""

    encoding: str
    sample: str
    cost: float
    size: int


def _most_plausible(data: bytes, encodings: list[str]) -> str:
    """
    Of all that decode strictly, the one whose characters are most frequent; "" if none.

    Raises UnknownEncoding when another comes too near.
    """
    readings = sorted(_readings(data, encodings), key=lambda each: each.cost)
    best = next(iter(readings), None)
    worst = _WORST_COST_WITH_NULS if b"\0" in data else _WORST_COST
    if best is None or best.cost > best.size * worst:
        return ""
    others = (each.cost for each in readings if _reads_otherwise(each, best))
    if next(others, math.inf) - best.cost < _MARGIN:
        raise UnknownEncoding
    return best.encoding


def _reads_otherwise(one: _Reading, other: _Reading) -> bool:
    same_family = {one.encoding, other.encoding} <= _BIG5
    return one.sample != other.sample and not same_family


def _all_that_may_be(data: bytes) -> list[str]:
    encodings = [*_LANGUAGES, *_UTF16]
    match = charset_normalizer.from_bytes(_sample(data)).best()
    if match is not None and not match.encoding.startswith("utf"):
        encodings.append(codecs.lookup(match.encoding).name)
    return list(dict.fromkeys(encodings))


def _readings(data: bytes, encodings: Iterable[str]) -> Iterator[_Reading]:
    for encoding in encodings:
        # Of UTF-16, bytes that are not ASCII say nothing, nor where a line ends.
        sample = data[:_SAMPLE_BYTES] if encoding in _UTF16 else _sample(data)
        if _strictly(data, encoding) is None:
            continue
        # A sample may end inside a character.
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
        if not _is_text(text) or _has_odd_nuls(sample, encoding):
            continue
        models = _LANGUAGES.get(encoding, (*EAST_ASIAN, *ALPHABETS))
        cost = min(each.cost(text) for model in models for each in model())
        cost += _RARER.get(encoding, _RARE)
        yield _Reading(encoding=encoding, sample=text, cost=cost, size=len(sample))


def _has_odd_nuls(sample: bytes, encoding: str) -> bool:
    """Whether too many NULs are no upper half of a character, as ASCII has it."""
    if encoding not in _UTF16:
        return False
    lower_halves = sample[encoding == "utf-16-be" :: 2]
    return lower_halves.count(0) * 4 > len(lower_halves)


def _is_text(text: str) -> bool:
    controls = sum(1 for _ in _CONTROL.finditer(text))
    return controls <= len(text) * _MOST_CONTROLS


def _sample(data: bytes) -> bytes:
    """Lines that are not plain ASCII: only they tell encodings apart."""
    lines, size, end = [], 0, 0
    while size < _SAMPLE_BYTES and (found := _NOT_ASCII.search(data, end)):
        start = data.rfind(b"\n", end, found.start()) + 1 or end
        end = data.find(b"\n", found.end()) + 1 or len(data)
        lines.append(data[start : min(end, start + _SAMPLE_BYTES)])
        size += len(lines[-1])
    return b"".join(lines)


_NOT_ASCII = re.compile(rb"[\x80-\xff]")
