"""Streams as clients read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SSE = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Event:
    """One event of a standard stream; `id` is "" where it has none."""

    name: str
    data: Any
    id: str


def events_in(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a standard stream as its lines come; comments left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            told = json.loads(fields["data"])
            yield Event(told["event"], told["data"], fields.get("id", ""))
        fields = {}


def events_of(text: str) -> list[Event]:
    return list(events_in(text.split("\n")))


def text_of(events: Iterable[Event]) -> str:
    return "".join(event.data for event in events if event.name == "message")


def reasoning_of(events: Iterable[Event]) -> str:
    return "".join(event.data for event in events if event.name == "reasoning")


def up_to(events: Iterator[Event], said: str) -> list[Event]:
    """The events until the answer's text has reached `said`."""
    told: list[Event] = []
    while text_of(told) != said:
        told.append(next(events))
    return told
