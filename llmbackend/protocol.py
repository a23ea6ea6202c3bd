"""uvicorn's HTTP, with what it leaves out: a request's head has a time and a size."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextvars import copy_context
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llmbackend.errors import Invalid, LLMBackendError, TooLarge
from llmbackend.guard import SECURITY_HEADERS, log_access
from llmbackend.http import error_answer
from llmbackend.log import request_id


class BoundedProtocol(HttpToolsProtocol):
    """
    Closes a connection whose client dawdles over a request's head, or over the rest
    of a body that was refused; answers what is not HTTP as everything is answered.
    """

    head_seconds = 10.0
    head_bytes = 64 << 10

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_body = False
        self._began = time.monotonic()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # Closed, or a WebSocket now.
        if not self._in_body and self._head_bytes > self.head_bytes:
            self._refuse(TooLarge("The request's address and headers are too large."))
        elif self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Invalid("This is not a valid HTTP request."))

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
        status, headers, body = error_answer(error)
        named = (b"X-Request-ID", request_id.get().encode())
        ends = (b"Connection", b"close")
        lines = [
            b"%b: %b\r\n" % pair for pair in (*headers, *SECURITY_HEADERS, named, ends)
        ]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        log_access(str(self.client and self.client[0]), "-", "-", status, self._began)
