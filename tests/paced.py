"""
Answers that come at a steady pace, and how late each piece of them is.

    with paced.streaming(tmp_path) as streams:
        beside, alone = streams.late(beside=upload)

A provider writes the time into each piece; a piece is as late as it was under way when
the client has read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from tests import fake_provider
from tests.fake_provider import ENDLESSLY, NOW, Script
from tests.served import ServeProcess, fake_section, serving

STREAMS = 50
PACE = 0.02
_STAMP = re.compile(rb"<(\d+\.\d+)>")

Seconds = NDArray[np.float64]


class Streams:
    """
    So many answers being streamed, by the server, to readers on a thread of their own.

    `client` is signed in at the server as who asked.
    """

    def __init__(self, server: ServeProcess, client: httpx2.Client) -> None:
        self.server = server
        self.client = client
        self._read: list[tuple[float, float]] = []
        self._left = asyncio.Event()

    def late(
        self,
        *,
        beside: Callable[[], object],
        after: Callable[
            [], contextlib.AbstractContextManager[object]
        ] = contextlib.nullcontext,
    ) -> tuple[Seconds, Seconds]:
        """
        How late pieces were that were written while `beside` ran, and for as long a
        time after it, in which `after` is entered.
        """
        began = time.monotonic()
        beside()
        ended = time.monotonic()
        with after():
            time.sleep(ended - began)
            until = time.monotonic()
        return self._late(began, ended), self._late(ended, until)

    def _late(self, began: float, ended: float) -> Seconds:
        return np.array([late for at, late in self._read if began < at - late < ended])

    async def read(self, requests: list[bytes]) -> None:
        readers = [asyncio.create_task(self._read_one(each)) for each in requests]
        leaving = asyncio.create_task(self._left.wait())
        await asyncio.wait({leaving, *readers}, return_when=asyncio.FIRST_COMPLETED)
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def _read_one(self, request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(request)
            while line := await reader.readline():
                now = time.monotonic()
                self._read += [(now, now - float(at)) for at in _STAMP.findall(line)]
        finally:
            writer.close()

    def leave(self) -> None:
        self._left.set()

    def all_flow(self) -> bool:
        return len(self._read) > 2 * STREAMS


@contextlib.contextmanager
def streaming(directory: Path, **config: Any) -> Iterator[Streams]:
    """Streams that flow; `config` holds sections of config.yaml."""
    endless = Script(
        pieces=[f"<{NOW}>"],
        repeats=ENDLESSLY,
        pause=PACE,
        finish_reason=None,
        usage=None,
        done=False,
    )
    with fake_provider.running() as provider:
        provider.default = endless
        section = fake_section(provider.base_url)
        with (
            serving(directory, providers=section, **config) as server,
            server.signed_in() as client,
        ):
            streams = Streams(server, client)
            requests = [request_of(client, server.port) for _ in range(STREAMS)]
            loop = asyncio.new_event_loop()
            thread = threading.Thread(
                target=loop.run_until_complete, args=[streams.read(requests)]
            )
            thread.start()
            try:
                server.wait_for(streams.all_flow)
                yield streams
            finally:
                loop.call_soon_threadsafe(streams.leave)
                thread.join()
                loop.close()


def request_of(client: httpx2.Client, port: int) -> bytes:
    """The bytes of a question in a new conversation."""
    created = client.post(
        "/api/conversations/create", json={"title": "t", "model": "gpt-fake"}
    )
    path = f"/api/chat/{created.json()['conversation_id']}"
    body = b'{"message": "Hi"}'
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def p99(late: Seconds) -> float:
    """In milliseconds."""
    return float(np.percentile(late, 99) * 1000)


def base_in(client: httpx2.Client, *, model: str) -> str:
    """The id of a new knowledge base."""
    asked = {"kb_name": "kb", "embedding_model": model}
    created = client.post("/api/rag/kb/create", json=asked).raise_for_status()
    return str(created.json()["kb_id"])


def ingest(client: httpx2.Client, base: str, *, text: bytes, chunks: int) -> None:
    """Upload a text of so many chunks and wait for its end."""
    answer = client.post(
        "/api/rag/doc/upload",
        data={"kb_id": base},
        files={"file": ("a.txt", text)},
        timeout=600,
    )
    assert answer.json().get("chunks") == chunks, answer.text


def text_of(chunks: int, *, seed: int) -> bytes:
    """Lines of Chinese for so many chunks, other ones for each seed."""
    # With the overlap, a chunk of 400 characters goes on by six lines.
    codes = np.random.default_rng(seed).integers(0x4E00, 0x9FA5, (chunks * 6, 60))
    lines = [line.tobytes().decode("utf-32-le") for line in codes.astype("<u4")]
    return "\n".join(f"{line}。" for line in lines).encode()
