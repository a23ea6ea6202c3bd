"""How long a provider may take, and the clock that holds it to that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """
    Seconds a provider has.

    `first_token` counts from the call and covers every retry; `silence` is between
    any two reads; `total` counts from the call; `tail` is from the finish reason to
    the end of the stream.
    """

    connect: float = 10.0
    first_token: float = 60.0
    silence: float = 60.0
    total: float = 900.0
    tail: float = 2.0


class Watchdog:
    """
    Interrupts a read that takes too long.

    One timer for a whole stream: it is not reset by a read, it looks at the time of
    the last one when it fires. Time in which nobody reads is not silence. All reads
    are of the task that makes it.
    """

    def __init__(self, *, silence: float, ends_at: float) -> None:
        """`ends_at`: the loop's time after which every read is interrupted."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("A watchdog's stream is read by a task.")
        self._task = task
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._silence = silence
        self._ends_at = ends_at
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._interrupted = False

    async def read(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """
        What `read` returns: the next bytes, empty at the end of the stream.

        Raise TimeoutError when they do not come in time.
        """
        cancelling = self._task.cancelling()
        self._reading = True
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._due(), self._look)
        try:
            return await read()
        except asyncio.CancelledError:
            if self._interrupted and self._task.uncancel() <= cancelling:
                raise TimeoutError from None
            raise
        finally:
            self._reading = False

    def end_at(self, ends_at: float) -> None:
        """Move the end."""
        self._ends_at = ends_at
        self.close()

    def close(self) -> None:
        """Stop watching; a further read watches again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> float:
        return min(self._since + self._silence, self._ends_at)

    def _look(self) -> None:
        self._timer = None
        if not self._reading:
            return
        due = self._due()
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self._interrupted = True
        self._task.cancel()
