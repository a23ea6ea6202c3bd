"""Events as bytes on the wire: seed lines and standard server-sent events; pure."""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs

from chat.events import Cursor, Ending, Growth, Opening
from llmbackend.errors import Invalid

Framing = Literal["seed", "sse"]

HEADERS = [
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-cache"),
    (b"X-Accel-Buffering", b"no"),
    (b"Vary", b"Accept"),
]

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Encoder(Protocol):
    """One wire format; what it has no word for is empty bytes."""

    heartbeat: bytes

    def opening(self, opening: Opening) -> bytes: ...
    def growth(self, growth: Growth) -> bytes: ...
    def ending(self, ending: Ending) -> bytes: ...


class SeedLines:
    """One JSON object a line, an empty line after each; `data` is a string.

    >>> end = Ending(message_id=2, status="complete", full_text="Hi")
    >>> print(SeedLines().ending(end).decode().replace("\\n\\n", "|"))
    {"event":"done", "data":"Stream finished"}|{"event":"full_response", "data":"Hi"}|
    """

    heartbeat = b""

    def opening(self, opening: Opening) -> bytes:
        return b""

    def growth(self, growth: Growth) -> bytes:
        return self._line("message", growth.text) if growth.text else b""

    def ending(self, ending: Ending) -> bytes:
        if ending.error:
            return self._line("error", ending.error)
        return self._line("done", "Stream finished") + self._line(
            "full_response", ending.full_text
        )

    @staticmethod
    def _line(event: str, data: str) -> bytes:
        return f'{{"event":"{event}", "data":{_json(data)}}}\n\n'.encode()


class ServerSentEvents:
    """Standard server-sent events; `data` holds the same {"event", "data"} object."""

    heartbeat = b": \n\n"

    def opening(self, opening: Opening) -> bytes:
        started = {
            "conversation_id": opening.conversation_id,
            "question_id": opening.question_id,
            "message_id": opening.message_id,
            "model": opening.model,
            "provider": opening.provider,
        }
        frames = b"retry: 1000\n\n" + self._frame("started", started)
        if opening.sources:
            frames += self._frame("sources", list(opening.sources))
        return frames

    def growth(self, growth: Growth) -> bytes:
        here = event_id(growth.message_id, growth.cursor)
        if not growth.reasoning:
            return self._frame("message", growth.text, event_id=here)
        if not growth.text:
            return self._frame("reasoning", growth.reasoning, event_id=here)
        before = Cursor(growth.cursor.reasoning, growth.cursor.text - len(growth.text))
        between = event_id(growth.message_id, before)
        return self._frame("reasoning", growth.reasoning, event_id=between) + (
            self._frame("message", growth.text, event_id=here)
        )

    def ending(self, ending: Ending) -> bytes:
        frames = self._frame("usage", ending.usage) if ending.usage else b""
        end = event_id(ending.message_id, ending.cursor) + "-end"
        if ending.error:
            told = {
                "status": ending.status,
                "error": ending.error,
                "code": ending.code,
                "retryable": ending.retryable,
                "message_id": ending.message_id,
            }
            return frames + self._frame("error", told, event_id=end)
        told = {
            "status": ending.status,
            "finish_reason": ending.finish_reason,
            "usage": ending.usage,
            "message_id": ending.message_id,
        }
        if ending.unknown_sources:
            told["unknown_sources"] = list(ending.unknown_sources)
        return frames + self._frame("done", told, event_id=end)

    @staticmethod
    def _frame(event: str, data: Any, *, event_id: str = "") -> bytes:
        line = f"id: {event_id}\n" if event_id else ""
        body = _json({"event": event, "data": data})
        return f"{line}event: {event}\ndata: {body}\n\n".encode()


def event_id(message_id: int, cursor: Cursor) -> str:
    """Where a reader stands, for `Last-Event-ID`; opaque to clients."""
    return f"{message_id}-{cursor.reasoning}-{cursor.text}"


ENCODERS: dict[Framing, type[SeedLines] | type[ServerSentEvents]] = {
    "seed": SeedLines,
    "sse": ServerSentEvents,
}


def encoder_for(*, query: str, accept: str, configured: str) -> Encoder:
    """
    The wire format a request asks for; raises Invalid for an unknown ?format=.

    `query` is the query string, `accept` the Accept header, `configured` the
    config's chat.framing. An Accept that names text/event-stream asks for standard
    events; `*/*` does not.
    """
    asked = parse_qs(query).get("format", [""])[-1]
    if asked and asked not in ENCODERS:
        raise Invalid("format must be seed or sse.")
    if not asked and configured in ENCODERS:
        asked = configured
    if not asked:
        asked = "sse" if "text/event-stream" in accept.lower() else "seed"
    return ENCODERS[asked]()  # type: ignore[index]
