"""A client for benchmarks: raw HTTP/1.1 on one loop, a connection for each worker."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_STAMP = re.compile(rb"(\d{16}) ok,")
# How lines, events and a provider's stream say that the text is whole.
_FINISH = re.compile(rb'Stream finished|"status":"complete"|data: \[DONE\]')
TIMEOUT = 120.0


@dataclass
class Stream:
    """What a reader saw of one stream; delays in seconds."""

    status: int = 0
    first: float = 0.0
    delays: list[float] = field(default_factory=list)
    complete: bool = False


class Reading(asyncio.Protocol):
    """Reads one answer of a server that may merge pieces and split them anywhere."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self.stream = Stream()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._began = time.time()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        stream = self.stream
        if not stream.status:
            stream.status = int(data[9:12])
        whole = self._rest + data
        end = 0
        # What follows the end repeats the whole text; it is no piece.
        finish = _FINISH.search(whole)
        limit = 0 if stream.complete else finish.start() if finish else len(whole)
        for found in _STAMP.finditer(whole, 0, limit):
            stream.delays.append(now - int(found[1]) / 1e6)
            end = found.end()
        if stream.delays and not stream.first:
            stream.first = now - self._began
        stream.complete = stream.complete or finish is not None
        self._rest = whole[max(end, len(whole) - 64) :]
        if whole.endswith(b"0\r\n\r\n") or (stream.status >= 400):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True)
class Target:
    """A server, and a user's token there."""

    base_url: str
    token: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.base_url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.address[0]}:{self.address[1]}\r\n"
            f"Authorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


async def read_streams(
    target: Target, paths: Sequence[str], *, order: str, spread: float = 0.0
) -> list[Stream]:
    """Ask under every path at once, or over `spread` seconds, and read to the end."""
    loop = asyncio.get_running_loop()

    async def one(place: int, path: str) -> Stream:
        await asyncio.sleep(spread * place / len(paths))
        request = target.request("POST", path, {"message": order})
        _, reading = await loop.create_connection(
            lambda: Reading(request), *target.address
        )
        async with asyncio.timeout(TIMEOUT):
            await reading.done
        return reading.stream

    return list(await asyncio.gather(*(one(*each) for each in enumerate(paths))))


@dataclass
class Requests:
    """What a run of requests came to: latencies in seconds, and how many failed."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0


async def send_requests(
    target: Target, request: bytes, *, connections: int, seconds: float
) -> Requests:
    """The same request again and again on each connection, for so many seconds."""
    run = Requests()
    began = time.monotonic()

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(*target.address)
        while time.monotonic() - began < seconds:
            sent = time.monotonic()
            writer.write(request)
            status = await one_answer(reader)
            run.latencies.append(time.monotonic() - sent)
            run.failed += status >= 400
        writer.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    run.seconds = time.monotonic() - began
    return run


async def one_answer(reader: asyncio.StreamReader) -> int:
    """Read one answer with a Content-Length; its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    await reader.readexactly(int(length[1]) if length else 0)
    return int(head[9:12])


async def body_of(target: Target, method: str, path: str, body: Any) -> Any:
    """One request on a connection of its own; the JSON of its answer."""
    reader, writer = await asyncio.open_connection(*target.address)
    writer.write(target.request(method, path, body))
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    content = await reader.readexactly(int(length[1]) if length else 0)
    writer.close()
    if int(head[9:12]) >= 400:
        raise SystemExit(f"{method} {path}: {head[9:12].decode()} {content.decode()}")
    return json.loads(content)


async def gathered(work: Sequence[Awaitable[Any]], *, at_once: int) -> list[Any]:
    """`asyncio.gather`, some at a time."""
    gate = asyncio.Semaphore(at_once)

    async def gated(each: Awaitable[Any]) -> Any:
        async with gate:
            return await each

    return list(await asyncio.gather(*(gated(each) for each in work)))
