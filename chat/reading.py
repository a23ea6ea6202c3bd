"""Reading an answer along, from any place to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import coroutine
from typing import Any

from chat.answers import Reading
from chat.encoders import Encoder, WebSocketFrames
from llmbackend.direct_write import Write

Send = Callable[[Any], Coroutine[Any, Any, None]]


async def read_along(
    reading: Reading,
    encoder: Encoder | WebSocketFrames,
    send: Send,
    *,
    write: Write | None = None,
) -> Any | None:
    """
    Send a reader what `encoder` makes; the end, for the caller to send as the last.

    `write` sends what can be sent at once, which costs less, and else says False.
    There is no end when the process that serves the reader ends.
    """
    return await _Reader(reading, encoder, send, write).read()


class _Reader:
    """
    Sends in the moment in which the answer grows, as long as the client takes it.

    That is on the writer's task, which is spared waking another. What would have to
    wait for the client is left to the reader's own.
    """

    __slots__ = (
        "_answer",
        "_cursor",
        "_encode",
        "_encoder",
        "_heartbeat",
        "_left",
        "_over",
        "_send",
        "_told_sources",
        "_waiting",
        "_write",
    )

    def __init__(
        self,
        reading: Reading,
        encoder: Encoder | WebSocketFrames,
        send: Send,
        write: Write | None,
    ) -> None:
        self._answer, self._cursor = reading.answer, reading.cursor
        self._encoder = encoder
        self._encode = encoder.growth
        self._send = send
        self._write = write
        self._heartbeat = getattr(encoder, "heartbeat", None)
        self._told_sources = False
        self._over = False
        # What has to wait for the client.
        self._left: Coroutine[Any, Any, None] | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def read(self) -> Any | None:
        answer = self._answer
        await self._say(self._encoder.opening(answer.opening, self._cursor))
        loop = asyncio.get_running_loop()
        with answer.followed(self):
            while True:
                while (frame := self._next()) is not None:
                    await self._say(frame)
                if self._over:
                    ending = answer.ending
                    return self._encoder.ending(ending) if ending else None
                self._waiting = loop.create_future()
                try:
                    await self._waiting
                finally:
                    self._waiting = None
                if self._left is not None:
                    left, self._left = self._left, None
                    await left

    async def _say(self, frame: Any) -> None:
        if self._write is None or not self._write(frame):
            await self._send(frame)

    def grown(self) -> None:
        answer = self._answer
        try:
            is_written = (
                self._write is not None
                and self._waiting is not None
                and self._cursor is answer.before
                and self._write(answer.latest(self._encode))
            )
        except Exception as exc:  # noqa: BLE001 - it is the reader's, not the writer's
            self._go_on(exc)
            return
        if is_written:
            self._cursor = answer.cursor
        else:
            self.look()

    def look(self) -> None:
        self._push(iter(self._next, None))

    def beat(self) -> None:
        if self._heartbeat:
            self._push([self._heartbeat])

    def _next(self) -> Any | None:
        """What is to be sent now; None when there is nothing more, or only the end."""
        answer = self._answer
        if answer.opening.sources and not self._told_sources:
            self._told_sources = True
            return self._encoder.sources(answer.opening)
        frame = answer.frame(self._cursor, encode=self._encode)
        if frame is not None:
            made, self._cursor = frame
            return made
        self._over = answer.lost or answer.ending is not None
        return None

    def _push(self, frames: Iterable[Any]) -> None:
        """Send on the caller's task, unless the reader's own is at it."""
        if self._waiting is None:
            return
        try:
            for frame in frames:
                sending = self._send(frame)
                try:
                    awaited = sending.send(None)
                except StopIteration:
                    continue
                self._left = _rest(sending, awaited)
                break
        except Exception as exc:  # noqa: BLE001 - it is the reader's, not the writer's
            self._go_on(exc)
            return
        if self._over or self._left is not None:
            self._go_on()

    def _go_on(self, error: Exception | None = None) -> None:
        """Let the reader's own task go on, or fail."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)


@coroutine
def _rest(begun: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """What is left of a coroutine that has run as far as to wait for `awaited`."""
    try:
        while True:
            try:
                value = yield awaited
            except BaseException as exc:  # noqa: BLE001 - handed on
                awaited = begun.throw(exc)
            else:
                awaited = begun.send(value)
    except StopIteration:
        return
