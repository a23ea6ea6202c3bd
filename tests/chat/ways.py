"""The ways to ask a question, and what each of them is told of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from llmbackend.errors import LLMBackendError
from tests.chat.sockets import socket_of
from tests.chat.streams import SSE, Event, events_of, text_of

WAYS = ("lines", "events", "socket", "rag")


@dataclass(frozen=True)
class Told:
    """
    What an asker was told: `end` is done, error or, in place of a stream, refused.

    `status` is HTTP's; a socket has none, and it is 200.
    """

    text: str = ""
    end: str = "done"
    code: str = ""
    status: int = 200


def ask(way: str, client: httpx2.Client, conversation: int, base: str) -> Told:
    """Ask in one of WAYS; the question is the way's name."""
    if way == "socket":
        with socket_of(client, conversation) as socket:
            socket.send("message", message=way)
            return told_by(list(socket.events()))
    path, body = f"/api/chat/{conversation}", {"message": way}
    if way == "rag":
        path = "/api/rag/chat"
        body = {**body, "conversation_id": conversation, "kb_id": base}  # type: ignore[dict-item]
    response = client.post(path, json=body, headers={} if way == "lines" else SSE)
    if response.status_code != 200:
        return refused(response, grounded=way == "rag")
    return told_by_lines(response.text) if way == "lines" else told_by_events(response)


def refused(response: httpx2.Response, *, grounded: bool) -> Told:
    body = response.json()
    assert body["error"] == sentences()[body["code"]]
    assert (response.status_code == 503) == ("Retry-After" in response.headers)
    assert body.get("success", None) is (False if grounded else None)
    return Told(end="refused", code=body["code"], status=response.status_code)


def told_by_events(response: httpx2.Response) -> Told:
    return told_by(events_of(response.text))


def told_by(events: list[Event]) -> Told:
    """Of a standard stream or a socket, which must end once and be in order."""
    ends = [event for event in events if event.name in {"done", "error"}]
    assert ends == events[-1:]
    assert events[0].name == "started"
    end = ends[0]
    if end.name == "error":
        assert end.data["error"] == sentences()[end.data["code"]]
    return Told(text_of(events), end.name, end.data.get("code", ""))


def told_by_lines(text: str) -> Told:
    """Of the seed's lines: what they end with has no code, but a sentence."""
    events = [json.loads(line) for line in text.split("\n") if line]
    pieces = [e["data"] for e in events if e["event"] == "message"]
    said, last = "".join(pieces), events[-1]
    kinds = [e["event"] for e in events[len(pieces) :]]
    if last["event"] == "error":
        assert kinds == ["error"]
        code = {sentence: code for code, sentence in sentences().items()}[last["data"]]
        return Told(said, "error", code)
    assert kinds == ["done", "full_response"]
    assert last["data"] == said
    return Told(said)


def sentences() -> dict[str, str]:
    """The sentence that goes with each error code."""
    return {kind.code: str(kind()) for kind in kinds_of(LLMBackendError)}


def kinds_of(kind: Any) -> Iterator[type[LLMBackendError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds_of(child)
