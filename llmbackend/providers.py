"""OpenAI-compatible endpoints: how they are reached, and what their failures are."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import aiohttp
import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient, Omit

from llmbackend.config import Provider
from llmbackend.errors import (
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderTimeout,
)
from llmbackend.upstream import KEPT_ALIVE, Response, Upstream

logger = logging.getLogger(__name__)

# What a request to a provider may raise. aiohttp's own come through where the SDK's
# transport does not know them.
FAILURES = (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError)

CONNECTIONS = 4096
COMPLAINT_BYTES = 16 * 1024
COMPLAINT_SECONDS = 2.0
LOGGED_CHARACTERS = 500
DEFAULT_RETRY_AFTER = 30
# Seconds; some name a date that is decades away.
LONGEST_RETRY_AFTER = 86_400.0
OUT_OF_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "1113"}

_KEY_LIKE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|pplx|nvapi)[-_][\w*.-]+|\bAIza[\w-]+"
    r"|\b[0-9a-f]{32}\.\w+|(?<=bearer )[^\s\"']+",
    re.IGNORECASE,
)


class ProviderClient(AsyncOpenAI):
    """
    The SDK's client, which also opens a stream without the SDK's way there.

    What lies on that way costs as much as all else about an answer.
    """

    def __init__(self, *, base_url: str) -> None:
        """Belongs to the running event loop."""
        super().__init__(
            api_key="given with each request",
            base_url=base_url,
            max_retries=0,
            http_client=DefaultAioHttpClient(
                trust_env=False,
                follow_redirects=False,
                verify=_ssl_context(),
                limits=httpx2.Limits(
                    max_connections=CONNECTIONS, keepalive_expiry=KEPT_ALIVE
                ),
                event_hooks={"response": [_refuse_failures]},
            ),
        )
        self._upstream = Upstream(self.base_url, tls=_ssl_context())
        # The SDK takes these from the environment; they are not for every provider.
        self.organization = self.project = None
        self._stream_target = self.base_url.join("chat/completions").raw_path
        self._stream_headers = {
            "Accept": "application/json",
            # The bytes are read raw; compressed ones would have no bound.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
        }

    async def open_stream(
        self, body: Mapping[str, Any], *, api_key: str, connect: float
    ) -> Response:
        """
        Post `body` to /chat/completions; the response, its body not taken yet.

        `connect`: seconds for a new connection. Close the response. Raises FAILURES,
        and ProviderAuth for a key no header can hold.
        """
        headers = self._stream_headers.copy()
        if api_key:
            headers["Authorization"] = _bearer(api_key)
        response = await self._upstream.post(
            self._stream_target,
            headers=headers,
            body=msgspec.json.encode(body),
            connect=connect,
        )
        if not 200 <= response.status < 300:
            try:
                said = await _complaint(_chunks(response))
            finally:
                response.close()
            raise _status_error(self._as_sdk_knows_it(response), said)
        return response

    def _as_sdk_knows_it(self, response: Response) -> httpx2.Response:
        request = httpx2.Request("POST", self.base_url.join("chat/completions"))
        return httpx2.Response(
            response.status, headers=response.headers, request=request
        )

    async def close(self) -> None:
        """Close every connection."""
        self._upstream.close()
        await super().close()


@cache
def _ssl_context() -> ssl.SSLContext:
    """What all clients know providers by."""
    return httpx2.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client, and the key to send with it; an empty key is not sent."""

    client: ProviderClient
    api_key: str


class Clients:
    """
    One SDK client per provider, for one event loop; close it when the loop ends.

    A client costs 18 ms to make and keeps connections alive between requests, so it
    is shared by all users: `authorization` gives each request its own key.
    """

    def __init__(self) -> None:
        self._clients: dict[str, ProviderClient] = {}

    def client_for(self, provider: Provider) -> ProviderClient:
        """The provider's client, made at the first call."""
        client = self._clients.get(provider.base_url)
        if client is None:
            client = ProviderClient(base_url=provider.base_url)
            self._clients[provider.base_url] = client
        return client

    async def aclose(self) -> None:
        """Close every connection."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()


def authorization(api_key: str) -> dict[str, str | Omit]:
    """
    The request headers that carry `api_key`; empty means none is sent.

    Raise ProviderAuth for a key no header can hold.
    """
    return {"Authorization": _bearer(api_key) if api_key else Omit()}


def _bearer(api_key: str) -> str:
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ProviderAuth
    return f"Bearer {api_key}"


@contextmanager
def translated_errors(*, provider: str, api_key: str) -> Iterator[None]:
    """Turn what the SDK and its transport raise into ours, and log it."""
    try:
        yield
    except FAILURES as exc:
        # The cause may quote the key: it is in the log, masked, and nowhere else.
        raise translated(exc, provider=provider, api_key=api_key) from None


def translated(exc: Exception, *, provider: str, api_key: str) -> ProviderError:
    """Our error for one of FAILURES; what the provider said goes to the log only."""
    log_complaint(_words(exc), provider=provider, api_key=api_key)
    if _timed_out(exc):
        return ProviderTimeout()
    if not isinstance(exc, openai.APIStatusError):
        return ProviderError()
    if exc.status_code in {401, 403}:
        return ProviderAuth()
    seconds = retry_after(exc)
    if exc.status_code == 429:
        wait = DEFAULT_RETRY_AFTER if seconds is None else math.ceil(seconds)
        return ProviderBusy(retry_after=max(1, wait))
    return ProviderError(retry_after=None if seconds is None else math.ceil(seconds))


def may_be_retried(exc: Exception) -> bool:
    """Whether the same request may succeed in a moment; `exc` is one of FAILURES."""
    if not isinstance(exc, openai.APIStatusError):
        return True
    # They may be of any type: they are the provider's.
    if any(isinstance(x, str) and x in OUT_OF_QUOTA for x in (exc.code, exc.type)):
        return False
    return exc.status_code in {408, 409, 429} or exc.status_code >= 500


def may_be_too_much(exc: Exception) -> bool:
    """Whether less in one request may succeed; `exc` is one of FAILURES."""
    if not isinstance(exc, openai.APIStatusError):
        return False
    return exc.status_code in {400, 413, 422}


def retry_after(exc: Exception) -> float | None:
    """Seconds the provider asks to wait, a day at most; None if it does not say."""
    if not isinstance(exc, openai.APIStatusError):
        return None
    value = exc.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def log_complaint(said: str, *, provider: str, api_key: str) -> None:
    """Log what a provider said of a failure: one short line, keys masked."""
    if api_key:
        said = said.replace(api_key, "***")
    said = _KEY_LIKE.sub("***", said)[:LOGGED_CHARACTERS]
    logger.warning("Provider %s failed: %r", provider, said)


async def _refuse_failures(response: httpx2.Response) -> None:
    """
    Raise the SDK's status error for any answer but 2xx, a redirect too.

    The SDK would read, and decompress, an error's body without a bound.
    """
    if not response.is_success:
        said = await _complaint(response.aiter_raw())
        raise _status_error(response, said)


def _status_error(response: httpx2.Response, said: bytes) -> openai.APIStatusError:
    message = f"HTTP {response.status_code}: {said.decode('utf-8', 'replace')}"
    return openai.APIStatusError(message, response=response, body=_error_object(said))


async def _complaint(chunks: AsyncIterator[bytes]) -> bytes:
    said = bytearray()
    try:
        async with asyncio.timeout(COMPLAINT_SECONDS):
            async for chunk in chunks:
                said += chunk
                if len(said) >= COMPLAINT_BYTES:
                    break
    except (TimeoutError, *FAILURES):
        logger.debug("A provider's error body was cut short")
    return bytes(said[:COMPLAINT_BYTES])


async def _chunks(response: Response) -> AsyncIterator[bytes]:
    """The body of a response that is read a part at a time."""
    body = _Queue()
    response.hand_to(body)
    while (data := await body.get()) is not None:
        yield data


class _Queue(asyncio.Queue[bytes | None]):
    """Takes a body; None is its end."""

    def take(self, data: bytes) -> None:
        self.put_nowait(data)

    def end(self, error: Exception | None) -> None:
        self.put_nowait(None)


def _error_object(said: bytes) -> Mapping[str, Any] | None:
    try:
        body = json.loads(said)
    except (ValueError, RecursionError):
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else None


def _words(exc: BaseException) -> str:
    """The messages along the chain: the SDK's own says only "Connection error."."""
    words = []
    link: BaseException | None = exc
    while link is not None:
        words.append(f"{type(link).__name__}: {link}")
        link = link.__cause__
    return " < ".join(words)


def _timed_out(exc: BaseException) -> bool:
    # The transport calls every lost connection a timeout; only the cause tells.
    link: BaseException | None = exc
    while link is not None:
        if isinstance(link, TimeoutError):
            return True
        link = link.__cause__
    return False
