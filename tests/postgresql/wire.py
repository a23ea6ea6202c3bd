"""The way from a server to its PostgreSQL, on which a statement can be kept back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

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


@dataclass
class Lost:
    """The commit of a transaction that has a statement with `text` in it."""

    text: bytes
    happened: threading.Event = field(default_factory=threading.Event)


@dataclass
class Session:
    """What has gone over one connection."""

    is_it: bool = False
    is_committed: bool = False


_session: ContextVar[Session] = ContextVar("session")


class Wire(TcpProxy):
    """A proxy to PostgreSQL; holds back, or loses, at most one thing at a time."""

    _held: Held | None = None
    _lost: Lost | None = None

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        _session.set(Session())
        await super().serve(reader, writer)

    @contextlib.contextmanager
    def losing_commit_of(self, text: str) -> Iterator[Lost]:
        """The connection breaks when it was committed, and before that is told."""
        self._lost = lost = Lost(text.encode())
        try:
            yield lost
        finally:
            self._lost = None

    @contextlib.contextmanager
    def holding(self, text: str, *, nth: int) -> Iterator[Held]:
        self._held = held = Held(text, nth)
        try:
            yield held
        finally:
            self._held = None
            held.released.set()

    async def hold(self, data: bytes, *, is_answer: bool) -> None:
        if self._lost is not None:
            self._lose(self._lost, data, is_answer=is_answer)
        held = self._held
        if held is not None and not is_answer and held.is_it(data):
            held.reached.set()
            await asyncio.to_thread(held.released.wait, 60)

    def _lose(self, lost: Lost, data: bytes, *, is_answer: bool) -> None:
        session = _session.get()
        if is_answer and session.is_committed and not lost.happened.is_set():
            lost.happened.set()
            raise ConnectionResetError
        if not is_answer:
            session.is_it = session.is_it or lost.text in data
            session.is_committed = session.is_it and b"COMMIT" in data
