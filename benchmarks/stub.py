"""
An OpenAI-compatible provider for benchmarks: python -m benchmarks.stub PORT.

The last message says what to do, as "chunks=200 pace=20 batch=1": so many pieces of 20
bytes, one every `pace` milliseconds (0: as fast as they are taken), `batch` in a write.
Each piece begins with the time it was written at, in microseconds since the epoch.
" wide=1000" adds so many characters of four bytes to each, and " sealed" ends the
answer with the SHA-256 of all that came before.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
import time
from dataclasses import dataclass

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-stub",'
    b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
)
ROLE = EVENT % (b'{"role":"assistant","content":""}', b"null")
FINISH = EVENT % (b"{}", b'"stop"') + b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"
SEAL = b" sha256="
_ORDER = re.compile(rb"chunks=(\d+) pace=(\d+) batch=(\d+)(?: wide=(\d+))?( sealed)?")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Order:
    """What one answer is to be; `pace` in seconds."""

    count: int = 1
    pace: float = 0.0
    batch: int = 1
    filling: bytes = b""
    sealed: bool = False

    @classmethod
    def of(cls, body: bytes) -> Order:
        """The last order in a request's body, or one piece."""
        orders = _ORDER.findall(body)
        if not orders:
            return cls()
        count, pace, batch, wide, sealed = orders[-1]
        filling = "🦀".encode() * int(wide or 0)
        return cls(int(count), int(pace) / 1000, int(batch), filling, bool(sealed))


def event(text: bytes) -> bytes:
    return EVENT % (b'{"content":"%b"}' % text, b"null")


class Pieces:
    """Makes the pieces of an answer, and their seal."""

    def __init__(self, order: Order) -> None:
        self._filling = order.filling
        self._said = hashlib.sha256() if order.sealed else None

    def next(self) -> bytes:
        text = b"%016d ok,%b" % (time.time_ns() // 1000, self._filling)
        if self._said is not None:
            self._said.update(text)
        return event(text)

    def seal(self) -> bytes:
        if self._said is None:
            return b""
        return event(SEAL + self._said.hexdigest().encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Provider(asyncio.Protocol):
    """One connection; its answers are written by one task each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._received = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        self._task = asyncio.ensure_future(self._answer(Order.of(body)))

    async def _answer(self, order: Order) -> None:
        loop = asyncio.get_running_loop()
        write = self._transport.write
        pieces = Pieces(order)
        write(HEAD + chunk(ROLE))
        due = loop.time()
        for written in range(0, order.count, order.batch):
            if order.pace:
                due += order.pace
                await asyncio.sleep(due - loop.time())
            else:
                await self._writable.wait()
                # The loop joins what is written in one turn.
                await asyncio.sleep(0)
            batch = min(order.batch, order.count - written)
            write(chunk(b"".join(pieces.next() for _ in range(batch))))
        write(chunk(pieces.seal() + FINISH) + LAST)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
