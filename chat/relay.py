"""Relay a model's answer as its provider writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

import aiohttp

from chat.completion import Completion, Delta, Finish, Usage
from chat.deadlines import Deadlines, Watchdog
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


async def relay(
    *,
    client: ProviderClient,
    provider: str,
    request: ModelRequest,
    api_key: str,
    deadlines: Deadlines,
    limits: Limits | None = None,
) -> AsyncGenerator[Delta | Finish, None]:
    """
    The model's answer: a Delta for each network read that brought any, then Finish.

    Whatever keeps the answer from its Finish is raised: before the first Delta a
    ProviderError (every retry happens there), after it also an AnswerCut; what was
    yielded stands. Closing the generator, or cancelling its reader, closes the
    provider's connection. `provider` is its name, for the log and the metrics.
    """
    call = _Call(client, provider, request, api_key, deadlines, limits or Limits())
    answer, delta = await call.begin()
    try:
        while True:
            if delta:
                yield delta
            if answer.completion.ended:
                break
            delta = await answer.read()
        answer.log_complaint()
        yield answer.completion.outcome()
        await answer.drain()
    finally:
        answer.close()


class _Call:
    """One question to a provider, asked again until the answer begins."""

    def __init__(
        self,
        client: ProviderClient,
        provider: str,
        request: ModelRequest,
        api_key: str,
        deadlines: Deadlines,
        limits: Limits,
    ) -> None:
        now = asyncio.get_running_loop().time()
        self.client = client
        self.provider = provider
        self.request = request
        self.api_key = api_key
        self.deadlines = deadlines
        self.limits = limits
        self.first_token_at = now + min(deadlines.first_token, deadlines.total)
        self.ends_at = now + deadlines.total

    async def begin(self) -> tuple[_Answer, Delta | None]:
        """The answer, read up to its first words; None if it ended without any."""
        try:
            async with asyncio.timeout_at(self.first_token_at):
                return await self._begin()
        except TimeoutError:
            self.log("no first token in time")
            raise ProviderTimeout from None

    async def _begin(self) -> tuple[_Answer, Delta | None]:
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

    async def _attempt(self) -> tuple[_Answer, Delta | None]:
        answer = _Answer(self, await self._post())
        try:
            return answer, await answer.first()
        except BaseException:
            answer.close()
            raise

    async def _post(self) -> aiohttp.ClientResponse:
        return await self.client.open_stream(
            _body(self.request), api_key=self.api_key, connect=self.deadlines.connect
        )

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


class _Answer:
    """One response of the provider, from its headers to its last byte."""

    def __init__(self, call: _Call, response: aiohttp.ClientResponse) -> None:
        self.call = call
        self.completion = Completion(
            max_characters=call.limits.answer_characters,
            max_line=call.limits.line_bytes,
        )
        self._response = response
        self._read = response.content.readany
        self._watchdog = Watchdog(silence=call.deadlines.silence, ends_at=call.ends_at)

    async def first(self) -> Delta | None:
        """Read up to the first words; raise one of FAILURES if they were cut off."""
        encoding = self._response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise ProviderProtocol
        completion = self.completion
        while not completion.ended and not completion.finish_reason:
            delta = self._take(await self._read())
            if delta:
                return delta
        if completion.was_cut:
            raise aiohttp.ClientPayloadError("the stream ended before its first token")
        return None

    async def read(self) -> Delta | None:
        """What the next read adds; a failure after the finish is an end."""
        try:
            data = await self._watchdog.read(self._read)
        except (TimeoutError, *FAILURES) as exc:
            if not self.completion.finish_reason:
                raise self._broken(exc) from None
            data = b""
        return self._take(data)

    def _broken(self, exc: Exception) -> Exception:
        if isinstance(exc, TimeoutError):
            self.call.log("silent, or too long at its answer")
            return ProviderStalled()
        self.call.translated(exc)  # For its log line: the words so far are kept.
        return Truncated()

    def _take(self, data: bytes) -> Delta | None:
        completion = self.completion
        finished = completion.finish_reason
        delta = completion.feed(data) if data else completion.close()
        if completion.finish_reason and (delta or not finished):
            tail_ends_at = asyncio.get_running_loop().time() + self.call.deadlines.tail
            self._watchdog.end_at(min(tail_ends_at, self.call.ends_at))
        return delta

    def log_complaint(self) -> None:
        """Log what the provider said of its failure inside the stream, if it did."""
        if self.completion.complaint:
            self.call.log(self.completion.complaint)

    async def drain(self) -> None:
        """Give the connection a moment to end, so that it can be used again."""
        if not self.completion.done:
            return
        with suppress(TimeoutError, *FAILURES):
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self._read():
                    pass

    def close(self) -> None:
        """Close the connection, unless the stream came to its end and gave it back."""
        self._watchdog.close()
        self._response.close()


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
