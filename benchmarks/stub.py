"""
An OpenAI-compatible provider for benchmarks: python -m benchmarks.stub PORT.

The last message says what to do, as "chunks=200 pace=20 batch=1": so many pieces of 20
bytes, one every `pace` milliseconds (0: as fast as they are taken), `batch` in a write.
Each piece begins with the time it was written at, in microseconds since the epoch.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

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
_ORDER = re.compile(rb"chunks=(\d+) pace=(\d+) batch=(\d+)")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def piece() -> bytes:
    content = b'{"content":"%016d ok,"}' % (time.time_ns() // 1000)
    return EVENT % (content, b"null")


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
        orders = _ORDER.findall(body)
        self._received = b""
        count, pace, batch = map(int, orders[-1]) if orders else (1, 0, 1)
        self._task = asyncio.ensure_future(self._answer(count, pace / 1000, batch))

    async def _answer(self, count: int, pace: float, batch: int) -> None:
        loop = asyncio.get_running_loop()
        write = self._transport.write
        write(HEAD + chunk(ROLE))
        due = loop.time()
        for _ in range(0, count, batch):
            if pace:
                due += pace
                await asyncio.sleep(due - loop.time())
            else:
                await self._writable.wait()
                # The loop joins what is written in one turn.
                await asyncio.sleep(0)
            write(chunk(b"".join(piece() for _ in range(batch))))
        write(chunk(FINISH) + LAST)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
