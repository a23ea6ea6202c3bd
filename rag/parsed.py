"""
What the server tells the process that parses a document, and what it hears back.

The order is one line of JSON on standard input; the report is one on standard output.
The result is a file: a line of JSON (type, encoding, text_bytes), the text in
UTF-8, and for each chunk a line of JSON (start, end, page, heading_path, terms_bytes,
dimension, places), its packed terms and, of its vector, the places that are not 0, each
of 2 bytes, and what stands there, float32; both little-endian: of n-grams nearly all is
0, and a long text has tens of thousands of chunks. Nothing in it can do more than be
wrong.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from mmap import ACCESS_READ, mmap
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from rag.confinement import Limits
from rag.extracted import Extracted
from rag.pacing import paced
from rag.sentences import Sizes

MAX_TEXT_BYTES = 20 << 20
_LONGEST_LINE = 64 << 10
# What a place of 2 bytes can name.
_MOST_DIMENSIONS = 1 << 16
_PLACE_BYTES, _VALUE_BYTES = 2, 4

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What to parse: `document` and `result` are open file descriptors, `parent` is the
    server's process id.
    """

    parent: int
    document: int
    result: int
    type: str
    encoding: str
    sizes: Sizes
    ngrams: bool
    limits: Limits

    def to_line(self) -> bytes:
        """As `from_line` reads it, with the line's end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Raises ValueError, KeyError or TypeError for a line that is no order."""
        data = json.loads(line)
        sizes, limits = Sizes(**data["sizes"]), Limits(**data["limits"])
        return cls(**data | {"sizes": sizes, "limits": limits})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How it went: no `code`, or an error's; `reason` is for the log alone."""

    code: str = ""
    message: str = ""
    reason: str = ""

    def to_line(self) -> bytes:
        """As `from_line` reads it, with the line's end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """Raises ValueError or TypeError, also for the empty line of a dead process."""
        report = cls(**json.loads(line))
        if not all(isinstance(each, str) for each in asdict(report).values()):
            raise TypeError("a report is made of text")
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedChunk:
    """
    `text[start:end]` of the document, with its packed terms.

    `vector` is empty unless n-grams were asked for.
    """

    start: int
    end: int
    page: int | None
    heading_path: tuple[str, ...]
    terms: bytes = field(repr=False)
    vector: Vector = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A document's text and chunks; `encoding` is "" for what is no text file."""

    type: str
    text: str = field(repr=False)
    encoding: str
    chunks: Sequence[ParsedChunk] = field(repr=False)


def write_result(
    file: IO[bytes],
    *,
    type: str,  # noqa: A002
    document: Extracted,
    chunks: Iterable[ParsedChunk],
) -> None:
    """Write what `read_result` reads."""
    text = document.text.encode()
    head = {"type": type, "encoding": document.encoding, "text_bytes": len(text)}
    file.write(json.dumps(head).encode() + b"\n")
    file.write(text)
    for chunk in chunks:
        places = np.flatnonzero(chunk.vector)
        row = {
            "start": chunk.start,
            "end": chunk.end,
            "page": chunk.page,
            "heading_path": chunk.heading_path,
            "terms_bytes": len(chunk.terms),
            "dimension": len(chunk.vector),
            "places": len(places),
        }
        file.write(json.dumps(row).encode() + b"\n" + chunk.terms)
        file.write(places.astype("<u2").tobytes())
        file.write(chunk.vector[places].astype("<f4").tobytes())


def read_result(file: IO[bytes]) -> Parsed:
    """
    The document; its chunks are read when they are asked for. `file` may be closed.

    Raises ValueError, KeyError or TypeError for a file that is no result.
    """
    result = mmap(file.fileno(), 0, access=ACCESS_READ)
    head, start = _line(result, 0)
    end = start + _whole(head["text_bytes"], MAX_TEXT_BYTES)
    text = result[start:end].decode()
    return Parsed(
        type=str(head["type"]),
        text=text,
        encoding=str(head["encoding"]),
        chunks=_Chunks(result, end, len(text)),
    )


class _Chunks(Sequence[ParsedChunk]):
    """Chunks in a file: a large document's terms and vectors would fill the memory."""

    def __init__(self, result: mmap, place: int, length: int) -> None:
        self._result = result
        self._places = array("Q", paced(_places(result, place, length), at_once=256))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ParsedChunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[ParsedChunk]: ...
    def __getitem__(self, index: int | slice) -> ParsedChunk | list[ParsedChunk]:
        if isinstance(index, slice):
            return [self._chunk(place) for place in self._places[index]]
        return self._chunk(self._places[index])

    def _chunk(self, place: int) -> ParsedChunk:
        row, terms = _line(self._result, place)
        places = terms + row["terms_bytes"]
        values = places + row["places"] * _PLACE_BYTES
        end = values + row["places"] * _VALUE_BYTES
        vector = np.zeros(row["dimension"], np.float32)
        np.put(
            vector,
            np.frombuffer(self._result[places:values], "<u2"),
            np.frombuffer(self._result[values:end], "<f4"),
            mode="clip",
        )
        return ParsedChunk(
            start=row["start"],
            end=row["end"],
            page=row["page"],
            heading_path=tuple(row["heading_path"]),
            terms=self._result[terms:places],
            vector=vector,
        )


def _places(result: mmap, place: int, length: int) -> Iterator[int]:
    """Where each chunk begins; raises what a chunk does that cannot be one."""
    while place < len(result):
        yield place
        row, place = _line(result, place)
        _check(row, length)
        place += row["terms_bytes"] + row["places"] * (_PLACE_BYTES + _VALUE_BYTES)
    if place != len(result):
        raise ValueError("the last chunk is not complete")


def _line(result: mmap, start: int) -> tuple[dict[str, Any], int]:
    """The line of JSON at `start`, and where it ends."""
    end = result.find(b"\n", start, start + _LONGEST_LINE) + 1
    line = json.loads(result[start:end])
    if not isinstance(line, dict):
        raise TypeError("a line is an object")
    return line, end


def _check(row: dict[str, Any], length: int) -> None:
    start = _whole(row["start"], length - 1)
    _whole(row["end"], length)
    if row["end"] <= start:
        raise ValueError("a chunk is not empty")
    if row["page"] is not None:
        _whole(row["page"], length)
    if not all(isinstance(title, str) for title in row["heading_path"]):
        raise TypeError("a title is text")
    _whole(row["terms_bytes"], MAX_TEXT_BYTES)
    _whole(row["places"], _whole(row["dimension"], _MOST_DIMENSIONS))


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number that can be")
    return value
