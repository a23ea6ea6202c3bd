"""Chunks of the usual form, which nearly all are; pure."""

from __future__ import annotations

from typing import Any

import msgspec


class PlainDelta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class PlainChoice(msgspec.Struct, gc=False):
    delta: PlainDelta | None = None
    index: int | None = 0
    finish_reason: str | None = None


class _PlainChunk(msgspec.Struct, gc=False):
    """What nearly every chunk is, decoded in a tenth of the time."""

    choices: list[PlainChoice]
    error: Any = None
    usage: Any = None


_decoded = msgspec.json.Decoder(_PlainChunk).decode
# What is not plain, or not even JSON to msgspec, such as half of an emoji.
_NOT_PLAIN = (msgspec.MsgspecError, ValueError, RecursionError)


def plain_choice(payload: bytes) -> PlainChoice | None:
    """The first choice of a chunk that has no other; None for any other chunk."""
    try:
        chunk = _decoded(payload)
    except _NOT_PLAIN:
        return None
    if chunk.error or chunk.usage or len(chunk.choices) != 1:
        return None
    choice = chunk.choices[0]
    return None if choice.index else choice


def around(text: str, *, data: bytes) -> tuple[bytes, bytes] | None:
    """
    What stands before and after `text` in an event that adds this text alone.

    Between the two, any other text that is `as_written` makes an event that adds that
    text and nothing else. None where it is not so, or cannot be told.
    """
    is_one_line = data.find(b"\n") == len(data) - 2 and b"\r" not in data
    before, quoted, after = data.rpartition(b'"%b"' % text.encode())
    if not (quoted and is_one_line and before.startswith(b"data: ")):
        return None
    before, after = before + b'"', b'"' + after
    other = text + "+"
    choice = plain_choice(before.removeprefix(b"data: ") + other.encode() + after)
    if choice != PlainChoice(PlainDelta(other)):
        return None
    return before, after


def as_written(text: str) -> bool:
    """Whether JSON can have a text as it is, and it needs no cleaning."""
    return text.isprintable() and '"' not in text and "\\" not in text
