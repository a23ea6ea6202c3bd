"""The way from a server to its PostgreSQL, on which a statement can be kept back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from tests.tcp_proxy import TcpProxy


class Held:
    """The `nth` statement with `text` in it: kept back until it is released."""

    def __init__(self, text: str, nth: int) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self._text = text.encode()
        self._left = nth

    def is_it(self, data: bytes) -> bool:
        if self._text not in data or self.reached.is_set():
            return False
        self._left -= 1
        return not self._left


class Wire(TcpProxy):
    """A proxy to PostgreSQL; holds back at most one statement at a time."""

    _held: Held | None = None

    @contextlib.contextmanager
    def holding(self, text: str, *, nth: int) -> Iterator[Held]:
        self._held = held = Held(text, nth)
        try:
            yield held
        finally:
            self._held = None
            held.released.set()

    async def hold(self, data: bytes, *, is_answer: bool) -> None:
        held = self._held
        if held is not None and not is_answer and held.is_it(data):
            held.reached.set()
            await asyncio.to_thread(held.released.wait, 60)
