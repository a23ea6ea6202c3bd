"""A TCP proxy on a loopback port of its own that can be made slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TypeVar

from tests import loops

P = TypeVar("P", bound="TcpProxy")


class TcpProxy:
    """Hands every connection on to `target`, a port; answers take `delay` seconds."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self.address = ""
        self._target = target

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection until either side ends it."""
        ends = {writer}
        # Python 3.11 reports a connection's cancelled task as a failed callback.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            other, onward = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(onward)
            ways = {
                asyncio.ensure_future(self._carry(reader, onward, delayed=False)),
                asyncio.ensure_future(self._carry(other, writer, delayed=True)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        for end in ends:
            end.transport.abort()

    async def hold(self, data: bytes, *, is_answer: bool) -> None:
        """Return when `data` may be passed on."""
        if is_answer and self.delay:
            await asyncio.sleep(self.delay)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        delayed: bool,
    ) -> None:
        while data := await reader.read(65536):
            await self.hold(data, is_answer=delayed)
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def running(proxy: P) -> Iterator[P]:
    """The proxy, which listens until the block ends."""
    with loops.running("tcp-proxy") as loop:
        proxy.address = loop.listen(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
        yield proxy
