"""Events on the wire: seed lines, server-sent events, WebSocket frames; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs

from chat.event_ids import end_id, event_id
from chat.events import Cursor, Ending, Growth, Opening
from llmbackend.errors import Invalid

Framing = Literal["seed", "sse"]

HEADERS = [
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-cache"),
    (b"X-Accel-Buffering", b"no"),
    (b"Vary", b"Accept"),
]

# More are tens of milliseconds to read.
MOST_PARAMETERS = 100

# An event, its data, and its id if a reader can come back to it.
Told = tuple[str, Any, str]

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# What that makes of a text.
_quoted = json.encoder.encode_basestring


class Encoder(Protocol):
    """
    One HTTP wire format; what it has no word for is empty bytes.

    `opening` is told where the text that follows begins.
    """

    heartbeat: bytes

    def opening(self, opening: Opening, start: Cursor) -> bytes: ...
    def sources(self, opening: Opening) -> bytes: ...
    def growth(self, growth: Growth) -> bytes: ...
    def ending(self, ending: Ending) -> bytes: ...
    def refusal(self, body: dict[str, Any]) -> bytes: ...


class SeedLines:
    """One JSON object a line, an empty line after each; `data` is a string.

    >>> end = Ending(message_id=2, status="complete", full_text="Hi")
    >>> print(SeedLines().ending(end).decode().replace("\\n\\n", "|"))
    {"event":"done", "data":"Stream finished"}|{"event":"full_response", "data":"Hi"}|
    """

    heartbeat = b""

    def opening(self, opening: Opening, start: Cursor) -> bytes:
        return b""

    def sources(self, opening: Opening) -> bytes:
        return b""

    def growth(self, growth: Growth) -> bytes:
        return self._line("message", growth.text) if growth.text else b""

    def ending(self, ending: Ending) -> bytes:
        if ending.error:
            return self._line("error", ending.error)
        return self._line("done", "Stream finished") + self._line(
            "full_response", ending.full_text
        )

    def refusal(self, body: dict[str, Any]) -> bytes:
        return self._line("error", body["error"])

    @staticmethod
    def _line(event: str, data: str) -> bytes:
        return f'{{"event":"{event}", "data":{_quoted(data)}}}\n\n'.encode()


class ServerSentEvents:
    """
    Standard server-sent events; `data` holds the same {"event", "data"} object.

    An empty line is sent after data alone: there are readers that take one after
    anything else for an event without data.
    """

    heartbeat = b":\n"

    def opening(self, opening: Opening, start: Cursor) -> bytes:
        return b"retry: 1000\n" + self._frame(*told_of_opening(opening, start))

    def sources(self, opening: Opening) -> bytes:
        return self._frame("sources", list(opening.sources or ()), "")

    def growth(self, growth: Growth) -> bytes:
        return b"".join(self._frame(*told) for told in told_of_growth(growth))

    def ending(self, ending: Ending) -> bytes:
        return b"".join(self._frame(*told) for told in told_of_ending(ending))

    def refusal(self, body: dict[str, Any]) -> bytes:
        return self._frame("error", body, "")

    @staticmethod
    def _frame(event: str, data: Any, event_id: str) -> bytes:
        line = f"id: {event_id}\n" if event_id else ""
        body = _json({"event": event, "data": data})
        return f"{line}event: {event}\ndata: {body}\n\n".encode()


class WebSocketFrames:
    """The same events, one JSON object a text frame: {"event", "data", "id"}."""

    def opening(self, opening: Opening, start: Cursor) -> list[str]:
        return [self.frame(*told_of_opening(opening, start))]

    def sources(self, opening: Opening) -> list[str]:
        return [self.frame("sources", list(opening.sources or ()), "")]

    def growth(self, growth: Growth) -> list[str]:
        return [self.frame(*told) for told in told_of_growth(growth)]

    def ending(self, ending: Ending) -> list[str]:
        return [self.frame(*told) for told in told_of_ending(ending)]

    def refusal(self, body: dict[str, Any]) -> list[str]:
        return [self.frame("error", body, "")]

    @staticmethod
    def frame(event: str, data: Any, event_id: str = "") -> str:
        frame = {"event": event, "data": data}
        return _json({**frame, "id": event_id} if event_id else frame)


def told_of_opening(opening: Opening, start: Cursor) -> Told:
    """The answer and the reader's place in it; of the offsets those that are not 0."""
    told = {
        "conversation_id": opening.conversation_id,
        "question_id": opening.question_id,
        "message_id": opening.message_id,
        "model": opening.model,
        "provider": opening.provider,
    }
    if start.reasoning:
        told["reasoning_offset"] = start.reasoning
    if start.text:
        told["text_offset"] = start.text
    return "started", told, event_id(opening.message_id, start)


def told_of_growth(growth: Growth) -> Iterator[Told]:
    """Reasoning, then text, each with the place after it."""
    here = growth.cursor
    if growth.reasoning:
        before = Cursor(here.reasoning, here.text - len(growth.text))
        yield "reasoning", growth.reasoning, event_id(growth.message_id, before)
    if growth.text:
        yield "message", growth.text, event_id(growth.message_id, here)


def told_of_ending(ending: Ending) -> Iterator[Told]:
    """The usage, if it is known, and the end."""
    if ending.usage:
        yield "usage", ending.usage, ""
    end = end_id(ending.message_id, ending.cursor)
    if ending.error:
        told = {
            "status": ending.status,
            "error": ending.error,
            "code": ending.code,
            "retryable": ending.retryable,
            "message_id": ending.message_id,
        }
        if ending.usage:
            told["usage"] = ending.usage
        yield "error", told, end
        return
    told = {
        "status": ending.status,
        "finish_reason": ending.finish_reason,
        "usage": ending.usage,
        "message_id": ending.message_id,
    }
    if ending.unknown_sources:
        told["unknown_sources"] = list(ending.unknown_sources)
    yield "done", told, end


# One of each: readers of one format share what is encoded once.
ENCODERS: dict[Framing, Encoder] = {"seed": SeedLines(), "sse": ServerSentEvents()}
WEBSOCKET = WebSocketFrames()


def parameter(query: str, name: str) -> str:
    """The last `name` in a query string, or ""; raises Invalid where there is much."""
    if not query:
        return ""
    try:
        found = parse_qs(query, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise Invalid("The address has too many parameters.") from None
    return found.get(name, [""])[-1]


def encoder_for(*, query: str, accept: str, configured: str) -> Encoder:
    """
    The wire format a request asks for; raises Invalid for an unknown ?format=.

    `query` is the query string, `accept` the Accept header, `configured` the
    config's chat.framing. An Accept that names text/event-stream asks for standard
    events; `*/*` does not.
    """
    asked = parameter(query, "format")
    if asked and asked not in ENCODERS:
        raise Invalid("format must be seed or sse.")
    if not asked and configured in ENCODERS:
        asked = configured
    if not asked:
        asked = "sse" if "text/event-stream" in accept.lower() else "seed"
    return ENCODERS[asked]  # type: ignore[index]
