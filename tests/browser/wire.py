"""A wire between browser and server that can be cut, and knows what went over it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests import loops

HEAD = re.compile(rb"^(GET|POST|OPTIONS) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.S | re.M)
LAST_EVENT_ID = re.compile(rb"^last-event-id: *(\S+)", re.I | re.M)
# Seconds, well over the one after which a client is asked to come back.
SILENCE = 2.5
AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    """The head of a request, as it went over the wire."""

    method: str
    path: str
    last_event_id: str


class Wire:
    """
    Passes on what comes to its `port`; belongs to an event loop of its own.

    With `hold_after` nothing is passed on to the browser after the first event that
    has these bytes in it, so that a cut comes between that event and what follows.
    """

    def __init__(self, loop: loops.Loop, *, server_port: int) -> None:
        self.requests: list[Request] = []
        self.hold_after: bytes | None = None
        self._loop = loop.asyncio
        self._server_port = server_port
        self._ends: set[asyncio.StreamWriter] = set()
        address = loop.listen(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = int(address.rpartition(":")[2])

    def asked(self, path: str) -> list[Request]:
        """The requests for a path, whatever their query; preflights left out."""
        return [
            request
            for request in list(self.requests)
            if request.path.partition("?")[0] == path and request.method != "OPTIONS"
        ]

    def stays_silent(self) -> bool:
        """Whether nobody asks for anything in a while, as one would who comes back."""
        before = len(self.requests)
        threading.Event().wait(SILENCE)
        return len(self.requests) == before

    def cut(self) -> None:
        """Reset every connection there is now."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for end in self._ends:
            plain: socket.socket = end.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            end.transport.abort()

    async def _connect(
        self, from_browser: asyncio.StreamReader, to_browser: asyncio.StreamWriter
    ) -> None:
        ends = {to_browser}
        # Python 3.11 reports a connection's cancelled task as a failed callback.
        with suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection(
                "127.0.0.1", self._server_port
            )
            ends.add(to_server)
            self._ends |= ends
            await asyncio.gather(
                self._upwards(from_browser, to_server),
                self._downwards(from_server, to_browser),
            )
        self._ends -= ends
        for end in ends:
            end.close()

    async def _upwards(
        self, browser: asyncio.StreamReader, server: asyncio.StreamWriter
    ) -> None:
        while data := await browser.read(65536):
            self._note(data)
            server.write(data)
            await server.drain()
        server.close()

    async def _downwards(
        self, server: asyncio.StreamReader, browser: asyncio.StreamWriter
    ) -> None:
        held = False
        while data := await server.read(65536):
            mark = self.hold_after
            if mark and mark in data:
                self.hold_after = None
                browser.write(data[: data.index(b"\n\n", data.index(mark)) + 2])
                held = True
            elif not held:
                browser.write(data)
            await browser.drain()
        if not held:
            browser.close()

    def _note(self, data: bytes) -> None:
        for method, path, headers in HEAD.findall(data):
            last = LAST_EVENT_ID.search(headers)
            last_event_id = last[1].decode() if last else ""
            self.requests.append(Request(method.decode(), path.decode(), last_event_id))


@contextmanager
def wire_to(server_port: int) -> Iterator[Wire]:
    """A wire to the server at a loopback port."""
    with loops.running("wire") as loop:
        yield Wire(loop, server_port=server_port)
