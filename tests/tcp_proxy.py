"""A TCP proxy on a loopback port of its own that can be made slow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


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
        try:
            other, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
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
            for end in (writer, onward):
                end.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        delayed: bool,
    ) -> None:
        while data := await reader.read(65536):
            if delayed and self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def running(target: int) -> Iterator[TcpProxy]:
    """A proxy that listens until the block ends."""
    proxy = TcpProxy(target)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tcp-proxy", daemon=True)
    thread.start()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = run(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    host, port = server.sockets[0].getsockname()
    proxy.address = f"{host}:{port}"
    try:
        yield proxy
    finally:
        run(_stop(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
