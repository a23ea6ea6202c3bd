"""Relay a model's answer as its provider writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Protocol

import httpx2

from chat.completion import Completion, Delta, Finish, Usage
from chat.deadlines import Deadlines
from llmbackend import metrics
from llmbackend.errors import (
    ProviderProtocol,
    ProviderStalled,
    ProviderTimeout,
    Truncated,
)
from llmbackend.providers import (
    FAILURES,
    ProviderClient,
    log_complaint,
    may_be_retried,
    retry_after,
    translated,
)
from llmbackend.upstream import Response

__all__ = [
    "Deadlines",
    "Delta",
    "Finish",
    "Limits",
    "ModelRequest",
    "Usage",
    "relay",
]

DRAIN_SECONDS = 0.1
# What cannot be read here. `none`, or a charset, is said by who means no encoding.
COMPRESSED = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}

_random = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What the model is asked; None leaves a parameter to the provider."""

    model: str
    messages: Sequence[Mapping[str, str]]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an answer may cost. `backoff` is the first pause before a retry."""

    answer_characters: int = 1 << 20
    line_bytes: int = 1 << 20
    retries: int = 2
    backoff: float = 0.5
    longest_retry_after: float = 20.0


class Growing(Protocol):
    """What an answer's words are given to as they come."""

    def grow(self, *, text: str, reasoning: str) -> None:
        """What one network read added; never both empty."""


async def relay(
    answer: Growing,
    *,
    client: ProviderClient,
    provider: str,
    request: ModelRequest,
    api_key: str,
    deadlines: Deadlines,
    limits: Limits | None = None,
) -> Finish:
    """
    Have the model answer: `answer` grows in the moment something arrives.

    Whatever keeps the answer from its Finish is raised: before it has grown a
    ProviderError (every retry happens there), afterwards also an AnswerCut. Cancelling
    closes the provider's connection. `provider` is its name, for the log and the
    metrics.
    """
    call = _Call(answer, client, provider, request, api_key, deadlines, limits)
    reply = await call.begin()
    try:
        await reply.rest()
    finally:
        reply.close()
    if reply.completion.complaint:
        # What the provider said of its failure inside the stream.
        call.log(reply.completion.complaint)
    return reply.completion.outcome()


class _Call:
    """One question to a provider, asked again until the answer begins."""

    def __init__(
        self,
        answer: Growing,
        client: ProviderClient,
        provider: str,
        request: ModelRequest,
        api_key: str,
        deadlines: Deadlines,
        limits: Limits | None,
    ) -> None:
        now = asyncio.get_running_loop().time()
        self.answer = answer
        self.client = client
        self.provider = provider
        self.request = request
        self.api_key = api_key
        self.deadlines = deadlines
        self.limits = limits or Limits()
        self.first_token_at = now + min(deadlines.first_token, deadlines.total)
        self.ends_at = now + deadlines.total

    async def begin(self) -> _Reply:
        """A reply that has brought its first words, or ended without any."""
        try:
            async with asyncio.timeout_at(self.first_token_at):
                return await self._begin()
        except TimeoutError:
            self.log("no first token in time")
            raise ProviderTimeout from None

    async def _begin(self) -> _Reply:
        retries = 0
        while True:
            try:
                return await self._attempt()
            except FAILURES as exc:
                pause = self._pause(exc, retries=retries)
                if pause is None:
                    # The cause may quote the key, and has been logged without it.
                    raise self.translated(exc) from None
            retries += 1
            metrics.provider_retried(self.provider, call="chat")
            await asyncio.sleep(pause)

    async def _attempt(self) -> _Reply:
        response = await self.client.open_stream(
            _body(self.request), api_key=self.api_key, connect=self.deadlines.connect
        )
        reply = _Reply(self, response)
        try:
            await reply.first()
        except BaseException:
            reply.close()
            raise
        return reply

    def _pause(self, exc: Exception, *, retries: int) -> float | None:
        """Seconds to wait before asking again; None when it is time to give up."""
        if retries >= self.limits.retries or not may_be_retried(exc):
            return None
        pause = self.limits.backoff * 2**retries * _random.uniform(0.5, 1.0)
        asked = retry_after(exc) or 0.0
        if asked > self.limits.longest_retry_after:
            return None
        pause = max(pause, asked)
        now = asyncio.get_running_loop().time()
        return pause if now + pause < self.first_token_at else None

    def translated(self, exc: Exception) -> Exception:
        """Our error for one of FAILURES, which is logged."""
        return translated(exc, provider=self.provider, api_key=self.api_key)

    def log(self, complaint: str) -> None:
        """Log what went wrong at the provider."""
        log_complaint(complaint, provider=self.provider, api_key=self.api_key)


class _Reply:
    """One response of the provider, from its headers to its last byte."""

    __slots__ = (
        "_answer",
        "_begun",
        "_ends_at",
        "_failure",
        "_heard_at",
        "_loop",
        "_over",
        "_response",
        "_timer",
        "_waiting",
        "call",
        "completion",
    )

    def __init__(self, call: _Call, response: Response) -> None:
        self.call = call
        self._answer = call.answer
        self.completion = Completion(
            max_characters=call.limits.answer_characters,
            max_line=call.limits.line_bytes,
        )
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._begun = self._over = False
        self._failure: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._ends_at = call.ends_at
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def first(self) -> None:
        """Until the first words; raise one of FAILURES if they were cut off."""
        encodings = self._response.header(b"content-encoding").lower()
        if COMPRESSED.intersection(encodings.replace(" ", "").split(",")):
            raise ProviderProtocol
        self._response.hand_to(self)
        while not self._begun and not self._over:
            await self._changed()
        if self._failure is not None:
            raise self._failure
        if self.completion.was_cut and not self._begun:
            raise httpx2.ReadError("the stream ended before its first token")

    async def rest(self) -> None:
        """Until the end; raise what broke it off."""
        self._heard_at = self._loop.time()
        self._watch()
        while not self._over:
            await self._changed()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """
        Close the connection, but for one that came to its end.

        That has a moment to bring its last bytes, so that it can be used again.
        """
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._response.close(within=DRAIN_SECONDS if self.completion.done else 0)

    # What the response calls.

    def take(self, data: bytes) -> None:
        if self._over:
            return
        self._heard_at = self._loop.time()
        text = self.completion.text_of(data)
        if not text:
            self._grow_by(self.completion.feed, data)
            return
        try:
            self._answer.grow(text=text, reasoning="")
        except Exception as exc:  # noqa: BLE001 - raised where the answer is awaited
            self._finish(exc)

    def end(self, error: Exception | None) -> None:
        if self._over:
            return
        if error is None or self.completion.finish_reason:
            # A failure after the finish is an end.
            self._grow_by(self.completion.close)
        elif not self._begun:
            self._finish(error)
        else:
            self.call.translated(error)  # For its log line: the words so far are kept.
            self._finish(Truncated())

    def _grow_by(self, heard: Callable[..., Delta | None], *data: bytes) -> None:
        completion = self.completion
        finished = completion.finish_reason
        try:
            delta = heard(*data)
            if delta is not None:
                self._answer.grow(text=delta.text, reasoning=delta.reasoning)
        except Exception as exc:  # noqa: BLE001 - raised where the answer is awaited
            self._finish(exc)
            return
        if completion.finish_reason and (delta or not finished):
            tail_ends_at = self._loop.time() + self.call.deadlines.tail
            self._ends_at = min(tail_ends_at, self.call.ends_at)
            self._watch()
        if completion.ended:
            self._finish(None)
        elif not self._begun and (delta or completion.finish_reason):
            self._begun = True
            self._wake()

    def _watch(self) -> None:
        """
        Have the clock looked at when the reply may be late.

        One timer for a whole stream: it is not reset by a read.
        """
        if self._timer is not None:
            self._timer.cancel()
        due = min(self._heard_at + self.call.deadlines.silence, self._ends_at)
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        due = min(self._heard_at + self.call.deadlines.silence, self._ends_at)
        if self._loop.time() < due:
            self._watch()
        elif self.completion.finish_reason:
            self._grow_by(self.completion.close)
        else:
            self.call.log("silent, or too long at its answer")
            self._finish(ProviderStalled())

    def _finish(self, failure: Exception | None) -> None:
        self._over, self._failure = True, failure
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _changed(self) -> None:
        self._waiting = self._loop.create_future()
        await self._waiting


def _body(request: ModelRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(request.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("temperature", "top_p", "max_tokens"):
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    return body
