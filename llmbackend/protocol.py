"""
uvicorn's HTTP and WebSocket, with what they leave out.

A request's head has a time and a size, and a client that takes nothing has a time too.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
import time
import uuid
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol,
)

from llmbackend.direct_write import offered
from llmbackend.errors import Invalid, LLMBackendError, TooLarge
from llmbackend.guard import SECURITY_HEADERS, log_access, peer_of
from llmbackend.http import error_answer
from llmbackend.log import request_id, request_path


class Stall:
    """
    Drops a connection whose client takes nothing for `patience` seconds.

    To be told when the transport's buffer is full and when it has drained; nothing is
    done as long as it never fills. What little there is in the buffer is lost, and the
    connection with it: a client that comes back reads on.
    """

    looks = 3

    def __init__(self, transport: Any, *, patience: float) -> None:
        self._transport = transport
        self._every = patience / self.looks
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._left, self._idle = untaken(self._transport), 0
        self._wait()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self.end()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._every, self._look)

    def _look(self) -> None:
        left = untaken(self._transport)
        self._idle = self._idle + 1 if left >= self._left else 0
        self._left = left
        if self._idle < self.looks:
            self._wait()
        else:
            self._transport.abort()


def untaken(transport: Any) -> int:
    """
    How many bytes a client has yet to take, those that the system holds among them.

    The transport's own stay as they are until there is much room with the system.
    """
    held = bytes(4)
    with suppress(OSError):
        plain = transport.get_extra_info("socket")
        held = fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, held)
    return int(transport.get_write_buffer_size() + struct.unpack("i", held)[0])


class PatientSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is dropped when its client takes nothing, or cannot ask."""

    stall_seconds = 30.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._stall = Stall(transport, patience=self.stall_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # What is said of it, uvicorn would leave unsaid, and wait.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.end()


class BoundedProtocol(HttpToolsProtocol):
    """
    Closes a connection whose client dawdles over a request's head, over the rest of a
    body that was refused, or over taking an answer; answers what is not HTTP as
    everything is answered. Who would rather speak another protocol is answered in this
    one, as clients of HTTP/2 expect that ask on a plain connection.
    """

    stall_seconds = 30.0
    head_seconds = 10.0
    head_bytes = 64 << 10

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._stall = Stall(transport, patience=self.stall_seconds)
        self.url = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_body = False
        self._began = time.monotonic()
        self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.end()
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
        self._feed(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # Closed, or a WebSocket now.
        if not self._in_body and self._head_bytes > self.head_bytes:
            self._refuse(TooLarge("The request's address and headers are too large."))
        elif self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def _feed(self, data: bytes) -> None:
        """What uvicorn does, which drops the body of who asks for HTTP/2 besides."""
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            while (upgrade_at := self._feed_until_upgrade(rest)) is not None:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                self._feed_head_again()
                rest = rest[upgrade_at:]
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self._refuse(Invalid("This is not a valid HTTP request."))

    def _feed_until_upgrade(self, data: memoryview) -> int | None:
        """Where in `data` a head has ended that asks for another protocol."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            return int(exc.args[0])
        return None

    def _feed_head_again(self) -> None:
        """Read a head again without the upgrade it asks for."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise httptools.HttpParserError("there is nobody to connect to")
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())]
        head += [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def _should_upgrade(self) -> bool:
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _is_to_be_fed_again(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def on_headers_complete(self) -> None:
        if self._is_to_be_fed_again():
            return
        # Blanks after a value are not of it; the parser takes those before it away.
        self.headers[:] = [(name, value.rstrip(b" \t")) for name, value in self.headers]
        self._stop_waiting()
        self._in_body = True
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.scope["extensions"] = offered(self.cycle)

    def on_message_complete(self) -> None:
        if self._is_to_be_fed_again():
            return
        self._in_body = False
        self._head_bytes = 0
        super().on_message_complete()

    def _expect_head(self) -> None:
        if self._deadline is None:
            close = self.transport.close
            self._deadline = self.loop.call_later(self.head_seconds, close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, error: LLMBackendError) -> None:
        if self.cycle is None or self.cycle.response_complete:
            # The id is this request's alone, not the connection's next one's.
            copy_context().run(self._answer, error)
        self.transport.close()

    def _answer(self, error: LLMBackendError) -> None:
        request_id.set(uuid.uuid4().hex)
        request_path.set(self.url.decode("latin-1"))
        status, headers, body = error_answer(error)
        named = (b"X-Request-ID", request_id.get().encode())
        ends = (b"Connection", b"close")
        lines = [
            b"%b: %b\r\n" % pair for pair in (*headers, *SECURITY_HEADERS, named, ends)
        ]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        client = peer_of({"client": self.client})
        log_access(client, "-", "-", status, self._began)
