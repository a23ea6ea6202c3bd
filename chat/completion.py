"""What a provider's chunks say, put together; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from chat.eventstream import BOM, EventReader
from chat.hygiene import Hygiene, cleaned
from chat.plain import around, as_written, plain_choice
from llmbackend.errors import (
    AnswerTooLong,
    EmptyAnswer,
    LLMBackendError,
    ProviderError,
    ProviderProtocol,
    Truncated,
)

_decoded = json.JSONDecoder().decode

# Beyond what any model takes, and far within what a column holds.
MOST_TOKENS = 10**8

# How many reads are looked at for what is the same in all.
LOOKS = 4

# Names providers give to an answer they broke off themselves: not a finish.
BROKEN_OFF = {"error", "network_error", "insufficient_system_resource", "abort"}


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What an answer cost: what the provider says it counted, or an estimate.

    `left` are the tokens that its owner can still spend, by limit.
    """

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    left: Mapping[str, int] = field(default_factory=dict)

    def as_counts(self) -> dict[str, Any]:
        """As clients are told it, in OpenAI's words as far as they go."""
        counts: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        if self.estimated:
            counts["estimated"] = True
        if self.left:
            counts["remaining"] = dict(self.left)
        return counts


@dataclass(slots=True)
class Delta:
    """What one network read added to the answer; never both empty."""

    text: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider's terminal signal was seen: the answer is whole."""

    finish_reason: str
    usage: Usage | None


class Completion:
    """
    An answer as its provider's bytes tell it, streamed or in one JSON object.

    Feed it bytes until `ended`, or `close` it at the end of the bytes; then ask for
    its `outcome`.
    """

    __slots__ = (
        "_after",
        "_before",
        "_document",
        "_failure",
        "_is_alike_next",
        "_looks",
        "_max_characters",
        "_max_line",
        "_reader",
        "_reasoning",
        "_reasoning_hygiene",
        "_sniffed",
        "_text",
        "_text_hygiene",
        "_usage",
        "characters",
        "complaint",
        "done",
        "ended",
        "events",
        "finish_reason",
    )

    def __init__(self, *, max_characters: int, max_line: int) -> None:
        """`max_characters` bounds text and reasoning together."""
        self.ended = False
        self.done = False
        self.finish_reason = ""
        self.complaint = ""
        self.events = 0
        self.characters = 0
        self._max_characters = max_characters
        self._max_line = max_line
        self._failure: LLMBackendError | None = None
        self._usage: Usage | None = None
        self._document: bytearray | None = None
        self._sniffed = False
        self._reader = EventReader(max_line=max_line)
        self._text_hygiene = Hygiene()
        self._reasoning_hygiene = Hygiene()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        # What stands before and after the text in reads that differ in it alone.
        self._before = self._after = b""
        self._looks = LOOKS
        self._is_alike_next = False

    @property
    def was_cut(self) -> bool:
        """Whether a stream that had begun ended with no sign of its end."""
        whole = self._failure or self.done or self.finish_reason
        return self.ended and self.events > 0 and not whole

    def text_of(self, data: bytes) -> str:
        """
        The text these bytes add, where they are as others were but for it.

        It is empty for all other bytes, of which nothing is taken: they are to be fed.
        """
        if not (
            self._is_alike_next
            and data.startswith(self._before)
            and data.endswith(self._after)
            and len(data) <= self._max_line
        ):
            return ""
        try:
            text = data[len(self._before) : -len(self._after)].decode()
        except UnicodeDecodeError:
            return ""
        characters = self.characters + len(text)
        if not text or not as_written(text) or characters > self._max_characters:
            return ""
        self.events += 1
        self.characters = characters
        return text

    def feed(self, data: bytes) -> Delta | None:
        """What these bytes add; None for nothing yet."""
        delta = self._fed(data)
        is_known = self._before and data.startswith(self._before)
        if delta is not None and self._looks and not is_known:
            self._look_at(data, delta)
        self._is_alike_next = (
            bool(self._before)
            and self._reader.is_between
            and not self._text_hygiene.half
            and not self.finish_reason
            and not self.ended
        )
        return delta

    def _look_at(self, data: bytes, delta: Delta) -> None:
        self._looks -= 1
        if found := around(delta.text, data=data):
            self._before, self._after = found

    def _fed(self, data: bytes) -> Delta | None:
        if not self._sniffed:
            self._sniff(data)
        if self._document is not None:
            self._document += data
            if len(self._document) > self._max_line + 4 * self._max_characters:
                self._fail(ProviderProtocol())
            return None
        try:
            payloads = self._reader.feed(data)
        except ProviderProtocol as exc:
            self._fail(exc)
            return None
        for payload in payloads:
            if not self._take_plain(payload):
                self._take(payload)
            if self.ended:
                break
        return self._delta()

    def close(self) -> Delta | None:
        """What the end of the bytes adds; afterwards the answer has `ended`."""
        if not self.ended and self._document is not None:
            self._take_document(bytes(self._document))
        elif not self.ended:
            self._take_rest()
        self.ended = True
        return self._delta()

    def outcome(self) -> Finish:
        """How the answer ended; raise what kept it from being whole."""
        if self._failure:
            raise self._failure
        if not self.done and not self.finish_reason:
            raise Truncated if self.characters else ProviderProtocol
        reason = self.finish_reason or "stop"
        if not self.characters and reason not in {"length", "content_filter"}:
            raise EmptyAnswer
        return Finish(reason, self._usage)

    def _sniff(self, data: bytes) -> None:
        """Tell by its first byte what the body is: content types are often wrong."""
        start = data.removeprefix(BOM).lstrip()[:1]
        self._sniffed = bool(start)
        if start == b"{":
            self._document = bytearray()
        elif start == b"<":
            self._fail(ProviderProtocol())

    def _take(self, payload: bytes) -> None:
        if payload.startswith(b"[DONE]"):
            self.done = self.ended = True
            return
        if not payload:
            return
        self.events += 1
        try:
            chunk = _decoded(payload.decode())
        except (ValueError, RecursionError) as exc:
            said = payload[:4096].decode("utf-8", "replace")
            # Words may say what is wrong; what was to be a chunk holds the answer's.
            is_chunk = said.lstrip().startswith(("{", "["))
            self._fail(ProviderProtocol(), complaint=str(exc) if is_chunk else said)
            return
        self._take_chunk(chunk)

    def _take_plain(self, payload: bytes) -> bool:
        """Take a chunk of the usual form; False for any other."""
        choice = plain_choice(payload)
        if choice is None or choice.delta is None:
            return False
        delta = choice.delta
        self.events += 1
        if delta.content:
            self._text.append(delta.content)
        if thought := delta.reasoning_content or delta.reasoning:
            self._reasoning.append(thought)
        if choice.finish_reason:
            self._take_finish(choice.finish_reason)
        return True

    def _take_rest(self) -> None:
        for payload in self._reader.flush():
            if payload.startswith(b"[DONE]"):
                self._take(payload)
                return
            try:
                chunk = _decoded(payload.decode())
            except (ValueError, RecursionError):
                # The line was cut by the end of the stream: that is a truncation.
                return
            self._take_chunk(chunk)

    def _take_document(self, body: bytes) -> None:
        body = body.removeprefix(BOM).strip()
        if not self._take_plain(body):
            self._take(body)
        self.done = bool(self._text or self._reasoning or self.finish_reason)
        if not self.done and not self._failure:
            self._fail(ProviderProtocol())

    def _take_chunk(self, chunk: Any) -> None:
        if not isinstance(chunk, dict):
            self._fail(ProviderProtocol())
            return
        if error := chunk.get("error"):
            self._fail(ProviderError(), complaint=json.dumps(error))
            return
        if usage := chunk.get("usage"):
            self._usage = _usage(usage) or self._usage
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return
        for choice in choices:
            if isinstance(choice, dict) and not choice.get("index"):
                self._take_choice(choice)

    def _take_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        said = self.characters or self._text or self._reasoning
        if delta is None and not said:
            # The whole; a stream may end with all of it once more.
            delta = choice.get("message")
        if isinstance(delta, dict):
            if content := delta.get("content"):
                self._text.append(_text(content))
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                self._reasoning.append(_text(thought))
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            self._take_finish(reason)

    def _take_finish(self, reason: str) -> None:
        if reason in BROKEN_OFF:
            self._fail(ProviderError(), complaint=reason)
            return
        reason = "content_filter" if reason == "sensitive" else reason
        # It is stored and told, like the text.
        self.finish_reason = cleaned(reason)

    def _delta(self) -> Delta | None:
        """What was taken since the last delta, within the answer's bound."""
        if not self._text and not self._reasoning and not self.ended:
            return None
        text = reasoning = ""
        if self._text:
            text = self._text_hygiene.feed("".join(self._text))
            self._text.clear()
        if self._reasoning:
            reasoning = self._reasoning_hygiene.feed("".join(self._reasoning))
            self._reasoning.clear()
        if self.ended and not self._failure:
            text += self._text_hygiene.flush()
            reasoning += self._reasoning_hygiene.flush()
        room = self._max_characters - self.characters
        if len(text) + len(reasoning) > room:
            self._failure = AnswerTooLong()
            self.ended = True
            reasoning = reasoning[:room]
            text = text[: room - len(reasoning)]
        self.characters += len(text) + len(reasoning)
        return Delta(text, reasoning) if text or reasoning else None

    def _fail(self, failure: LLMBackendError, *, complaint: str = "") -> None:
        """End here; what goes wrong after the finish does not spoil the answer."""
        self.ended = True
        self.complaint = complaint
        if not self.finish_reason:
            self._failure = failure


def _text(content: object) -> str:
    """A delta's content, which some providers send as a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not _is_count(prompt) or not _is_count(answer):
        return None
    return Usage(prompt, answer)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < MOST_TOKENS
