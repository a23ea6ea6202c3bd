"""
HTTP/1.1 for a provider's streams: what arrives is handed over in the same moment.

A general client lays it down for a reader that is then woken, which costs more than
all that is done with it here. httptools parses, as it does under uvicorn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohappyeyeballs
import httptools
import httpx2

logger = logging.getLogger(__name__)

HEAD_BYTES = 64 << 10
# Seconds that an idle connection is kept, and a host's addresses.
KEPT_ALIVE = 60.0
RESOLVED_FOR = 10.0
# Seconds after which the next of a host's addresses is tried beside the last.
NEXT_ADDRESS = 0.25
# Seconds after which a request that no host acknowledges goes over a new connection:
# firewalls forget connections that were idle, and drop what comes over them.
UNACKNOWLEDGED = 5.0


class Taker(Protocol):
    """Who a response's body is handed to, as it comes; neither method may raise."""

    def take(self, data: bytes) -> None:
        """What one read brought."""

    def end(self, error: Exception | None) -> None:
        """The body is whole, or will not be: an httpx2.TransportError."""


class Nobody:
    """Takes a body that nobody wants any more."""

    def take(self, data: bytes) -> None: ...

    def end(self, error: Exception | None) -> None: ...


class Response(asyncio.Protocol):
    """What a provider answers: its head, and its body for whoever takes it."""

    # Slots: what is not touched for 20 ms has left the caches.
    __slots__ = (
        "_directly",
        "_ended",
        "_error",
        "_field_bytes",
        "_fields",
        "_giving_up",
        "_head_bytes",
        "_is_between_chunks",
        "_is_whole",
        "_may_be_kept",
        "_parser",
        "_parts",
        "_taker",
        "_transport",
        "_upstream",
        "head",
        "status",
    )

    def __init__(self, upstream: Upstream, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.head: asyncio.Future[None] = loop.create_future()
        self._upstream = upstream
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        # As aiohttp reads what is not written as it should be, and is harmless.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._fields: list[tuple[bytes, bytes]] = []
        self._field_bytes = 0
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._taker: Taker | None = None
        # What takes a chunk that nothing stands before.
        self._directly: Callable[[bytes], None] | None = None
        self._is_between_chunks = False
        self._is_whole = self._may_be_kept = False
        self._ended = False
        self._error: Exception | None = None
        self._giving_up: asyncio.TimerHandle | None = None

    @property
    def headers(self) -> httpx2.Headers:
        """Made of the fields each time: few ask for more than one."""
        return httpx2.Headers(self._fields)

    def header(self, name: bytes) -> str:
        """What the fields of a name, in lower case, say; empty where there is none."""
        found = [value for field, value in self._fields if field.lower() == name]
        return b",".join(found).decode("latin-1")

    def hand_to(self, taker: Taker) -> None:
        """Give `taker` what has come, then what comes, in the moment it does."""
        self._taker = taker
        self._hand_over()
        if self._ended:
            self._taker = None
            taker.end(self._error)

    def close(self, *, within: float = 0.0) -> None:
        """
        Take no more. The connection is kept if the body ends `within` seconds.
        """
        if self._ended:
            return
        self._taker, self._directly = Nobody(), None
        if within:
            loop = asyncio.get_running_loop()
            self._giving_up = loop.call_later(within, self._transport.abort)
        else:
            self._end(httpx2.ReadError("closed here"))

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        if self._directly is not None:
            # One chunk, written as nearly all are: the parser need not see it.
            at = data.find(b"\r\n")
            size = len(data) - at - 4
            if size > 0 and data[:at] == b"%x" % size and data.endswith(b"\r\n"):
                self._directly(data[at + 2 : -2])
                return
        if self._ended:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._break_off(httpx2.RemoteProtocolError(f"{type(exc).__name__}: {exc}"))
            return
        if not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._end(httpx2.RemoteProtocolError("the head is too large"))
            return
        if self._parts:
            self._hand_over()
        if self._is_whole:
            self._end(None)
        elif self._taker is not None:
            # The parser does not say that it is in the middle of the next one's size.
            at_once = self._is_between_chunks and data.endswith(b"\r\n")
            self._directly = self._taker.take if at_once else None

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.status and self._ends_by_closing():
            self._end(None)
        else:
            said = f"{type(exc).__name__}: {exc}" if exc else "the connection ended"
            self._end(httpx2.ReadError(said))

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise ValueError("more came than was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > HEAD_BYTES:
            raise ValueError("the head is too large")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # More than a hint is to follow.
            self._fields.clear()
            return
        self.status = status
        if not self.head.done():
            self.head.set_result(None)

    def on_chunk_header(self) -> None:
        self._is_between_chunks = False

    def on_chunk_complete(self) -> None:
        self._is_between_chunks = True

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self.status:
            self._is_whole = True
            # To be asked now: the parser forgets what it parsed.
            self._may_be_kept = self._parser.should_keep_alive()

    def _break_off(self, error: Exception) -> None:
        """What came before the error counts, and may be all there is."""
        self._hand_over()
        self._may_be_kept = False
        self._end(None if self._is_whole else error)

    def _ends_by_closing(self) -> bool:
        return not {"content-length", "transfer-encoding"} & self.headers.keys()

    def _hand_over(self) -> None:
        parts = self._parts
        if parts and self._taker is not None:
            self._parts = []
            self._taker.take(parts[0] if len(parts) == 1 else b"".join(parts))

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended, self._error = True, error
        if self._giving_up is not None:
            self._giving_up.cancel()
        if error is None and self._may_be_kept:
            self._upstream.keep(self._transport)
        else:
            self._transport.abort()
        if not self.head.done():
            self.head.set_exception(error or httpx2.ReadError("no head"))
        taker, self._taker = self._taker, None
        self._directly = None
        # It holds this response as a taker does, which would be garbage for a while,
        # and the answer with it.
        del self._parser
        if taker is not None:
            taker.end(error)


class Idle(asyncio.Protocol):
    """What a connection that is kept speaks: nothing."""

    def __init__(self, upstream: Upstream, transport: asyncio.Transport) -> None:
        self._upstream = upstream
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self._transport)


class Upstream:
    """The connections to one host, of one event loop."""

    def __init__(self, base_url: httpx2.URL, *, tls: ssl.SSLContext) -> None:
        self.unacknowledged = UNACKNOWLEDGED
        self._host = base_url.raw_host.decode()
        secure = base_url.scheme == "https"
        self._port = base_url.port or (443 if secure else 80)
        self._tls = tls if secure else None
        self._at = base_url.netloc
        self._idle: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._closed = False
        self._addresses: list[Any] = []
        self._resolved_at = 0.0

    async def post(
        self, target: bytes, *, headers: Mapping[str, str], body: bytes, connect: float
    ) -> Response:
        """
        Post `body`; the response, its body not taken yet, to be closed.

        `connect`: seconds for a new connection. Raises httpx2.TransportError.
        """
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = b"POST %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            target,
            self._at,
            fields.encode("ascii"),
            len(body),
            body,
        )
        kept = self._kept()
        if kept is not None:
            try:
                return await self._answer(kept, request)
            except httpx2.ReadError:
                # It had gone, and the others that are kept may have gone with it.
                logger.debug("A connection that was kept had gone")
        return await self._answer(await self._connected(within=connect), request)

    async def _answer(self, transport: asyncio.Transport, request: bytes) -> Response:
        response = Response(self, transport)
        transport.set_protocol(response)
        transport.write(request)
        try:
            await response.head
        except BaseException:
            response.close()
            raise
        return response

    def keep(self, transport: asyncio.Transport) -> None:
        """Have a connection wait for the next request."""
        if self._closed:
            transport.close()
            return
        loop = asyncio.get_running_loop()
        transport.set_protocol(Idle(self, transport))
        self._idle[transport] = loop.call_later(KEPT_ALIVE, transport.close)

    def forget(self, transport: asyncio.Transport) -> None:
        """A connection that was kept has gone."""
        timer = self._idle.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Close the connections that are kept, and keep no more."""
        self._closed = True
        for transport in list(self._idle):
            transport.abort()

    def _kept(self) -> asyncio.Transport | None:
        while self._idle:
            # The one that was busy last: it is the least likely to be closed just now.
            transport, timer = self._idle.popitem()
            timer.cancel()
            if not transport.is_closing():
                return transport
        return None

    async def _connected(self, *, within: float) -> asyncio.Transport:
        try:
            async with asyncio.timeout(within):
                return await self._connect()
        except TimeoutError as exc:
            raise httpx2.ConnectTimeout("no connection in time") from exc
        except (OSError, UnicodeError) as exc:  # Some names cannot even be looked up.
            raise httpx2.ConnectError(f"{type(exc).__name__}: {exc}") from exc

    async def _connect(self) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        if not self._addresses or loop.time() - self._resolved_at > RESOLVED_FOR:
            self._addresses = await loop.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM
            )
            self._resolved_at = loop.time()
        plain = await aiohappyeyeballs.start_connection(
            self._addresses, happy_eyeballs_delay=NEXT_ADDRESS
        )
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = round(self.unacknowledged * 1000)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        transport, _ = await loop.create_connection(
            asyncio.Protocol,
            sock=plain,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        return transport
