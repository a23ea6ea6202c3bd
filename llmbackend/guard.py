"""
The outermost ASGI layer: what holds for every request, whoever answers it.

Channels' consumers stand outside Django's middleware, so Host, CORS, body size,
security headers, the request id and the access line are here, once for all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.http.request import split_domain_port, validate_host

from llmbackend import config, metrics
from llmbackend.errors import BadHost, Internal, Invalid, LLMBackendError, TooLarge
from llmbackend.http import error_answer, renamed
from llmbackend.log import request_address, request_id, request_path
from llmbackend.routes import Routes

access = logging.getLogger("llmbackend.access")
logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"same-origin"),
    (b"X-Frame-Options", b"DENY"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
)
PREFLIGHT_HEADERS = (
    (b"Access-Control-Allow-Methods", b"GET, POST, PATCH, PUT, DELETE, OPTIONS"),
    (
        b"Access-Control-Allow-Headers",
        # "*" does not stand for Authorization.
        b"Authorization, Content-Type, Accept, Cache-Control, "
        b"Idempotency-Key, Last-Event-ID, X-Requested-With, *",
    ),
    (b"Access-Control-Max-Age", b"86400"),
)
# Bytes a second; less is no network but somebody who keeps connections busy.
SLOWEST = 1 << 10
TOO_SLOW = "The request's body did not arrive in time."
EXPOSED = (
    b"Access-Control-Expose-Headers",
    b"Content-Disposition, Retry-After, X-Request-ID, X-Next-Before",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimit:
    """The most bytes a request body may have where `paths` matches."""

    paths: re.Pattern[str]
    limit: int


class Guard:
    """
    Wraps an ASGI application.

    `limits` are tried in order, then `default_limit`. A body is given up that pauses
    longer than `body_pause` seconds, or that after `body_patience` seconds has come
    more slowly than SLOWEST.
    """

    def __init__(
        self,
        application: Application,
        *,
        server: config.Server,
        hosts: Sequence[str],
        limits: Sequence[BodyLimit],
        routes: Routes,
        default_limit: int = 1 << 20,
        body_pause: float = 30.0,
        body_patience: float = 60.0,
    ) -> None:
        self._application = application
        self._server = server
        self._hosts = hosts
        self._limits = limits
        self._routes = routes
        self._default_limit = default_limit
        self._body_pause = body_pause
        self._body_patience = body_patience
        # Hosts and addresses come again and again, and take a while to check.
        self._is_our_domain = lru_cache(maxsize=256)(self._is_among_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id.set(os.urandom(16).hex())
        request_path.set(scope["path"])
        headers = dict(scope["headers"])
        client = self._client(scope)
        request_address.set(client)
        exchange = Exchange(
            scope,
            receive,
            send,
            client=client,
            limit=self._limit_for(scope["path"]),
            pause=self._body_pause,
            patience=self._body_patience,
            extra=self._cors(scope, headers),
        )
        try:
            if not self._is_our_host(scope):
                raise BadHost
            if is_preflight(scope, headers):
                await exchange.answer(204, headers=PREFLIGHT_HEADERS)
                return
            exchange.declare(headers)
            inner = self._as_believed(scope, client)
            await self._application(inner, exchange.receive, exchange.send)
        except Exception as exc:  # noqa: BLE001  The last handler there is.
            await exchange.fail(exc)
        finally:
            exchange.log()
            self._count(exchange)

    def _count(self, exchange: Exchange) -> None:
        if metrics.instruments() is not None:
            metrics.request_ended(
                method=exchange.method,
                route=self._routes.name_of(exchange.path),
                status=exchange.status,
                began=exchange.began,
            )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id.set(os.urandom(16).hex())
        headers = dict(scope["headers"])
        client = self._client(scope)
        request_address.set(client)
        origin = headers.get(b"origin", b"").decode("latin-1")
        began = time.monotonic()
        try:
            if self._is_our_host(scope) and (not origin or self._is_allowed(origin)):
                inner = self._as_believed(scope, client)
                await self._application(inner, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 4403})
        finally:
            log_access(client, "WEBSOCKET", scope["path"], 0, began)

    def _client(self, scope: Scope) -> str:
        return client_address(scope, self._server.trusted_proxies)

    def _as_believed(self, scope: Scope, client: str) -> Scope:
        """`scope` with the client's address, and what a trusted proxy alone may say."""
        headers = scope["headers"]
        if peer_of(scope) not in self._server.trusted_proxies:
            headers = [h for h in headers if not h[0].startswith(b"x-forwarded-")]
        return {**scope, "headers": headers, "client": (client, 0)}

    def _is_our_host(self, scope: Scope) -> bool:
        # Of two, a proxy may have looked at the other.
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and self._is_our_domain(hosts[0].decode("latin-1"))

    def _is_among_hosts(self, host: str) -> bool:
        domain, _ = split_domain_port(host)
        return bool(domain) and validate_host(domain, list(self._hosts))

    def _is_allowed(self, origin: str) -> bool:
        allowed = self._server.cors_origins
        return "*" in allowed or origin in allowed

    def _cors(
        self, scope: Scope, headers: dict[bytes, bytes]
    ) -> list[tuple[bytes, bytes]]:
        """What lets a page of another origin read this answer; never credentials."""
        if not scope["path"].startswith("/api/"):
            return []
        if "*" in self._server.cors_origins:
            return [(b"Access-Control-Allow-Origin", b"*"), EXPOSED]
        origin = headers.get(b"origin", b"")
        vary = (b"Vary", b"Origin")
        if origin and self._is_allowed(origin.decode("latin-1")):
            return [(b"Access-Control-Allow-Origin", origin), EXPOSED, vary]
        return [vary]

    def _limit_for(self, path: str) -> int:
        for rule in self._limits:
            if rule.paths.match(path):
                return rule.limit
        return self._default_limit


class Exchange:
    """One request and its answer, watched on their way."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        client: str,
        limit: int,
        pause: float | None,
        patience: float,
        extra: list[tuple[bytes, bytes]],
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._receive = receive
        self._send = send
        self._client = client
        self._limit = limit
        self._pause = pause
        self._patience = patience
        self._extra = extra
        self._received = 0
        self._is_whole = False
        self.began = time.monotonic()
        self.status = 0

    def declare(self, headers: dict[bytes, bytes]) -> None:
        """Take in what a request says of its body; raises TooLarge."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            raise TooLarge
        # What has no body to wait for is spared the timer.
        chunked = b"transfer-encoding" in headers
        if self.method == "GET" and declared == b"0" and not chunked:
            self._pause = None

    async def receive(self) -> dict[str, Any]:
        """The next part of the body, which must keep coming and stay within bounds."""
        if self._is_whole:
            return await self._receive()
        if self._is_too_slow():
            raise Invalid(TOO_SLOW)
        try:
            async with asyncio.timeout(self._pause):
                message = await self._receive()
        except TimeoutError:
            raise Invalid(TOO_SLOW) from None
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise TooLarge
        self._is_whole = not message.get("more_body", False)
        return message

    def _is_too_slow(self) -> bool:
        elapsed = time.monotonic() - self.began
        return elapsed > self._patience and self._received < elapsed * SLOWEST

    def send(self, message: dict[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._complete(message.get("headers", ()))
        return self._send(message)

    def _complete(
        self, headers: Sequence[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        given = {name.lower() for name, _ in headers}
        missing = [pair for pair in SECURITY_HEADERS if pair[0].lower() not in given]
        named = (b"X-Request-ID", request_id.get().encode())
        return [*headers, *missing, *self._extra, named]

    async def answer(
        self,
        status: int,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
    ) -> None:
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})

    async def fail(self, exc: Exception) -> None:
        """Answer with the error, or cut what had begun so that nobody waits on."""
        error = renamed(exc)
        if error is None:
            logger.error("Unhandled error", exc_info=exc)
            error = Internal()
        if not self.status:
            await self.answer_error(error)
        else:
            raise exc

    async def answer_error(self, error: LLMBackendError) -> None:
        status, headers, body = error_answer(error)
        await self.answer(status, headers=headers, body=body)

    def log(self) -> None:
        log_access(self._client, self.method, self.path, self.status, self.began)


def log_access(client: str, method: str, path: str, status: int, began: float) -> None:
    """
    One line a request; without the query string, which may hold a token.

    A `status` of 0 is none.
    """
    took, path = (time.monotonic() - began) * 1000, printable(path)
    fields = {
        "client": client,
        "method": method,
        "path": path,
        "status": status or None,
        "duration_ms": round(took, 1),
    }
    line = '%s "%s %s" %s %.0f ms'
    access.info(
        line, client, method, path, status or "-", took, extra={"fields": fields}
    )


def is_preflight(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    return (
        scope["method"] == "OPTIONS"
        and scope["path"].startswith("/api/")
        and b"access-control-request-method" in headers
    )


def client_address(scope: Scope, trusted: Sequence[str]) -> str:
    """Who asks: the peer, or whom a trusted proxy says it asks for."""
    client = peer_of(scope)
    if client not in trusted:
        return client
    # A proxy adds itself to the line that is there, or a line of its own below it.
    lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = b",".join(lines).decode("latin-1").split(",")
    while client in trusted and hops:
        hop = plain_address(without_port(hops.pop().strip()))
        if hop == "-":
            break
        client = hop
    return client


def peer_of(scope: Scope) -> str:
    return plain_address((scope.get("client") or ("-", 0))[0])


def without_port(hop: str) -> str:
    """
    An address as some proxies name it, with the port that the client called from.

    >>> without_port("192.0.2.7:51234"), without_port("[2001:db8::1]:51234")
    ('192.0.2.7', '2001:db8::1')
    """
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


@lru_cache(maxsize=1024)
def plain_address(text: str) -> str:
    """
    One spelling for one address; "-" for what is none.

    >>> plain_address("::ffff:10.0.0.2")
    '10.0.0.2'
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(text)
        return str(getattr(address, "ipv4_mapped", None) or address)
    return "-"


def printable(path: str) -> str:
    """A path as one log line can carry it."""
    path = path[:200]
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else "?" for c in path)
