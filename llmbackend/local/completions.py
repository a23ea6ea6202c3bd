"""Chat completions between OpenAI's form and the engine's; pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from llmbackend.local.refusals import BadRequest, request_for

_SAMPLING = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
)
_ROLES = {"system", "user", "assistant"}
_CHUNK_KEYS = ("id", "object", "created", "model", "choices", "usage")


class EngineFailed(Exception):
    """The engine reported an error in the middle of an answer."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A checked request; `body` is what the engine is sent."""

    stream: bool
    usage: bool
    body: dict[str, Any]


def parse_ask(raw: bytes, *, model: str) -> Ask:
    """Check an OpenAI request for `model`; raise BadRequest."""
    data = request_for(model, raw)
    _check_messages(data.get("messages"))
    options = data.get("stream_options")
    usage = isinstance(options, dict) and options.get("include_usage") is True
    stream = data.get("stream") is True
    return Ask(stream=stream, usage=usage or not stream, body=_engine_body(data, model))


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message.")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise BadRequest("A message's role must be system, user or assistant.")
        if not isinstance(message.get("content"), str):
            raise BadRequest("A message's content must be a string.")


def _engine_body(data: dict[str, Any], model: str) -> dict[str, Any]:
    body = {name: data[name] for name in _SAMPLING if data.get(name) is not None}
    limit = data.get("max_completion_tokens") or data.get("max_tokens")
    if limit is not None:
        body["max_tokens"] = limit
    body["model"] = model
    body["messages"] = [
        {"role": message["role"], "content": message["content"]}
        for message in data["messages"]
    ]
    # The engine looks for a hang-up only when it has something to send: asked for a
    # whole answer, or silent over a long prompt, it would compute on to the end.
    body["stream"] = True
    body["return_progress"] = True
    body["stream_options"] = {"include_usage": True}
    return body


def parse_chunk(line: bytes) -> dict[str, Any] | None:
    """
    The chunk in one line of the engine's stream; None for a line a client need not see.

    Raises EngineFailed.

    >>> parse_chunk(b'data: {"choices": [], "prompt_progress": {"total": 9}}')
    >>> parse_chunk(b'data: {"id": "x", "choices": [], "timings": {}}')
    {'id': 'x', 'choices': []}
    """
    if not line.startswith(b"data: {"):
        return None
    data = json.loads(line[len(b"data: ") :])
    if "error" in data:
        raise EngineFailed
    if "prompt_progress" in data:
        return None
    return {name: data[name] for name in _CHUNK_KEYS if name in data}


@dataclass
class WholeAnswer:
    """The chunks of one answer, put together as a `chat.completion`."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    last: dict[str, Any] = field(default_factory=dict)

    def add(self, chunk: dict[str, Any]) -> None:
        """Take in the next chunk."""
        self.last |= chunk
        for choice in chunk["choices"]:
            self.texts.append(choice["delta"].get("content") or "")
            self.finish_reason = choice["finish_reason"] or self.finish_reason

    def completion(self) -> dict[str, Any]:
        """What a client that did not ask for a stream is sent."""
        message = {"role": "assistant", "content": "".join(self.texts)}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {**self.last, "object": "chat.completion", "choices": [choice]}
