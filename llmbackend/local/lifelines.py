"""What keeps the model process alive: the connections of the servers that use it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Lifelines:
    """
    Counts who holds on; when the last lets go, or after `cut`, `ended` is set.

    The kernel closes a killed server's connections and pipes, so the process cannot
    outlive the servers, however they end.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold on for the length of the block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if not self._held:
                self.cut()

    def cut(self) -> None:
        """End now, whoever still holds on."""
        self.ended.set()

    async def hold_standard_input(self) -> None:
        """Hold on until the server that started this process closes its pipe."""
        with self.held():
            reader = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
            )
            while await reader.read(1024):
                pass
