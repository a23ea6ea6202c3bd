"""Long-lived threads that do the database's work, each with its own connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections, connection

from llmbackend.errors import ServerRestarting

P = ParamSpec("P")
R = TypeVar("R")
Job = Callable[[], Any]
Done = Callable[[Any, BaseException | None], object]


class DatabaseThreads:
    """
    A pool of at most `size` threads; a thread starts only when all are busy.

    A thread's connection lives on between jobs, up to CONN_MAX_AGE; of the idle
    threads at most `idle` keep one. Belongs to one event loop.
    """

    def __init__(self, *, name: str, size: int, idle: int) -> None:
        self._name = name
        self._size = size
        self._idle = idle
        self._kept = 0
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._closed = False

    async def run(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """
        Call `function` on one of the threads and return what it returns.

        It is carried out also when the caller is cancelled meanwhile. Raises what
        `function` raises, and ServerRestarting once the pool is closed.
        """
        if self._closed:
            raise ServerRestarting(retry_after=5)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[tuple[Any, BaseException | None]]
        outcome = loop.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            self._unfinished -= 1
            if not outcome.done():
                outcome.set_result((result, error))

        job = partial(copy_context().run, partial(function, *args, **kwargs))
        self._jobs.put((job, lambda *end: loop.call_soon_threadsafe(finish, *end)))
        self._unfinished += 1
        if len(self._threads) < min(self._unfinished, self._size):
            self._start_thread()
        result, error = await outcome
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let the jobs end, then end the threads and their connections."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        # A process that is not shut down in order must not wait for them.
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        kept = False
        while (item := self._jobs.get()) is not None:
            self._forget(kept)
            kept = self._do(*item)
        connection.close()

    def _do(self, job: Job, done: Done) -> bool:
        """Do one job; whether its connection is kept."""
        result, error = None, None
        close_old_connections()
        try:
            result = job()
        except BaseException as exc:  # noqa: BLE001  It is raised where it was asked for.
            error = exc
        close_old_connections()
        kept = self._keep_or_close_connection()
        # Without a loop nobody waits any more.
        with suppress(RuntimeError):
            done(result, error)
        return kept

    def _forget(self, kept: bool) -> None:
        with self._lock:
            self._kept -= kept

    def _keep_or_close_connection(self) -> bool:
        if connection.connection is None:
            return False
        with self._lock:
            keep = self._kept < self._idle
            self._kept += keep
        if not keep:
            connection.close()
        return keep
