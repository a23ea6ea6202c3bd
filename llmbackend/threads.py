"""Long-lived threads that do the database's work, each with its own connection."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections, connection

from llmbackend.errors import ServerRestarting

P = ParamSpec("P")
R = TypeVar("R")
Job = tuple[Callable[[], Any], Callable[[Any, BaseException | None], object]]
Inbox = SimpleQueue[Job | None]

# Under load a thread is idle for an instant only, and a connection costs a
# millisecond to open.
LINGER = 1.0


class DatabaseThreads:
    """
    A pool of at most `size` threads; a thread starts only when all are busy.

    The thread that was busy last is the next one to be. A thread's connection lives on
    between jobs, up to CONN_MAX_AGE; of the threads that have been idle for `linger`
    seconds at most `idle` keep one. Belongs to one event loop.
    """

    def __init__(
        self, *, name: str, size: int, idle: int, linger: float = LINGER
    ) -> None:
        self._name = name
        self._size = size
        self._idle = idle
        self._linger = linger
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        # Of the threads without a job, the one that had one last at the end.
        self._free: list[Inbox] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """
        Call `function` on one of the threads and return what it returns.

        It is carried out also when the caller is cancelled meanwhile. Raises what
        `function` raises, and ServerRestarting once the pool is closed.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[tuple[Any, BaseException | None]]
        outcome = loop.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            if not outcome.done():
                outcome.set_result((result, error))

        job = partial(copy_context().run, partial(function, *args, **kwargs))
        self._hand_out((job, lambda *end: loop.call_soon_threadsafe(finish, *end)))
        result, error = await outcome
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let the jobs end, then end the threads and their connections."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for inbox in free:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _hand_out(self, job: Job) -> None:
        with self._lock:
            if self._closed:
                raise ServerRestarting(retry_after=5)
            if self._free:
                self._free.pop().put(job)
            elif len(self._threads) < self._size:
                self._start_thread(job)
            else:
                self._waiting.append(job)

    def _start_thread(self, job: Job) -> None:
        name = f"{self._name}-{len(self._threads)}"
        # A process that is not shut down in order must not wait for them.
        thread = threading.Thread(target=self._work, args=[job], name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, first: Job) -> None:
        inbox: Inbox = SimpleQueue()
        job: Job | None = first
        while job is not None:
            job = self._do(job, inbox) or self._wait(inbox)
        connection.close()

    def _do(self, job: Job, inbox: Inbox) -> Job | None:
        """Do one job; the next, if one waits already."""
        function, done = job
        result, error = None, None
        close_old_connections()
        try:
            result = function()
        except BaseException as exc:  # noqa: BLE001  It is raised where it was asked for.
            error = exc
        # Free before anyone is told, so that what is asked for next comes here.
        following = self._next(inbox)
        # Without a loop nobody waits any more.
        with suppress(RuntimeError):
            done(result, error)
        return following

    def _next(self, inbox: Inbox) -> Job | None:
        """What waits for a thread; otherwise the thread of `inbox` is free."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._closed:
                inbox.put(None)
            else:
                self._free.append(inbox)
            return None

    def _wait(self, inbox: Inbox) -> Job | None:
        with suppress(Empty):
            return inbox.get(timeout=self._linger)
        if self._is_one_too_many(inbox):
            connection.close()
        return inbox.get()

    def _is_one_too_many(self, inbox: Inbox) -> bool:
        with self._lock:
            return inbox in self._free[: max(0, len(self._free) - self._idle)]
