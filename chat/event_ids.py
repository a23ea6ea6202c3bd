"""Positions in streams, as clients hold them in `Last-Event-ID`; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chat.events import Cursor
from llmbackend.errors import Invalid

# A message_id has ten digits at most, as imports may begin with.
_FORM = re.compile(r"(\d{1,10})-(\d{1,9})-(\d{1,9})(-end)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader of message `message_id` stands; `ended`: it was told the end."""

    message_id: int
    cursor: Cursor
    ended: bool = False


def event_id(message_id: int, cursor: Cursor) -> str:
    """Where a reader stands, for `Last-Event-ID`; opaque to clients."""
    return f"{message_id}-{cursor.reasoning}-{cursor.text}"


def end_id(message_id: int, cursor: Cursor) -> str:
    """The id of an answer's end."""
    return event_id(message_id, cursor) + "-end"


def position(text: str) -> Position:
    """
    The position that an event's id names; raises Invalid for what is none.

    >>> position("2-0-14-end")
    Position(message_id=2, cursor=Cursor(reasoning=0, text=14), ended=True)
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise Invalid("Last-Event-ID: the id of an event of this stream is required.")
    message, reasoning, said, end = match.groups()
    return Position(int(message), Cursor(int(reasoning), int(said)), bool(end))
