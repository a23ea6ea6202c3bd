"""An event loop on a thread of its own, for what tests run beside the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tests.patience import PATIENCE


class Loop:
    """A loop that runs on another thread, and the servers that listen there."""

    def __init__(self) -> None:
        self.asyncio = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` there to its end; its result."""
        return asyncio.run_coroutine_threadsafe(work, self.asyncio).result(PATIENCE)

    def listen(self, begun: Coroutine[Any, Any, asyncio.Server]) -> str:
        """Begin to listen, until the loop ends; `host:port`."""
        server = self.run(begun)
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def end(self) -> None:
        """End every listener and every task."""
        for server in self._servers:
            for listening in server.sockets:
                self.asyncio.remove_reader(listening.fileno())
        # What was accepted by now begins its task; a server that closes before
        # that leaves such a connection open (Python 3.11).
        await _turns()
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _turns()  # What was closed by now lets go of its socket.


async def _turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


@contextmanager
def running(name: str) -> Iterator[Loop]:
    """A loop that runs until the block ends."""
    loop = Loop()
    thread = threading.Thread(target=loop.asyncio.run_forever, name=name, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.run(loop.end())
        loop.asyncio.call_soon_threadsafe(loop.asyncio.stop)
        thread.join()
        loop.asyncio.close()
