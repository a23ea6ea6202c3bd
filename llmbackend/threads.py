"""Long-lived threads that do the database's work, each with its own connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from django.db import connections

from llmbackend.errors import ServerRestarting

P = ParamSpec("P")
R = TypeVar("R")
Job = tuple[Callable[[], Any], Callable[[Any, BaseException | None], object]]

# Under load a thread is idle for an instant only, and a connection costs a
# millisecond to open.
LINGER = 1.0
# Seconds after which a job is a long one, that others need not wait for.
LONG = 0.005


class Worker:
    """A thread: where it is given jobs, and since when it has one."""

    __slots__ = ("began", "inbox")

    def __init__(self) -> None:
        self.began = 0.0
        self.inbox: SimpleQueue[Job | None] = SimpleQueue()


class DatabaseThreads:
    """
    A pool of at most `size` threads; a thread starts only when it is needed.

    Of short jobs, `at_once` are done at a time: threads that compute take the
    interpreter from each other, and half of the time with it. A job that takes long,
    because it waits for the database or has much to do, holds nobody up after `long`
    seconds.

    The thread that was busy last is the next one to be. A thread's connection lives on
    between jobs, up to CONN_MAX_AGE; of the threads that have been idle for `linger`
    seconds at most `idle` keep one. Belongs to one event loop.
    """

    def __init__(
        self,
        *,
        name: str,
        size: int,
        at_once: int,
        idle: int,
        long: float = LONG,
        linger: float = LINGER,
    ) -> None:
        self._name = name
        self._size = size
        self._at_once = at_once
        self._idle = idle
        self._long = long
        self._linger = linger
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._busy: set[Worker] = set()
        # Of those without a job, the one that had one last is at the end.
        self._free: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self._looking: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """
        Call `function` on one of the threads and return what it returns.

        It is carried out also when the caller is cancelled meanwhile. Raises what
        `function` raises, and ServerRestarting once the pool is closed.
        """
        outcome: asyncio.Future[tuple[Any, BaseException | None]]
        outcome = asyncio.get_running_loop().create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            if not outcome.done():
                outcome.set_result((result, error))

        context = copy_context()
        self.submit(partial(context.run, function, *args, **kwargs), finish)
        result, error = await outcome
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def submit(
        self,
        function: Callable[[], Any],
        done: Callable[[Any, BaseException | None], object],
    ) -> None:
        """
        The same without waiting: `done` is called on the loop, with result and error.

        What of the two there is not is None. Raises ServerRestarting.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._closed:
                raise ServerRestarting(retry_after=5)
            tell: Callable[..., Any] = partial(loop.call_soon_threadsafe, done)  # type: ignore[arg-type]
            self._waiting.append((function, tell))
        self._look(loop)

    def close(self) -> None:
        """Let the jobs end, then end the threads and their connections."""
        with self._lock:
            self._closed = True
            while self._waiting and len(self._threads) < self._size:
                self._give(self._waiting.popleft())
            free, self._free = self._free, []
        for worker in free:
            worker.inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have done what waits, as far as may be; look again while anything waits."""
        with self._lock:
            while self._waiting and self._may_begin():
                self._give(self._waiting.popleft())
            waits = bool(self._waiting)
        if self._looking is not None:
            self._looking.cancel()
        self._looking = loop.call_later(self._long, self._look, loop) if waits else None

    def _may_begin(self) -> bool:
        """Whether another thread may take a job; to be asked with the lock."""
        if not self._free and len(self._threads) >= self._size:
            return False
        return self._short_jobs() < self._at_once

    def _short_jobs(self) -> int:
        since = time.monotonic() - self._long
        return sum(worker.began > since for worker in self._busy)

    def _give(self, job: Job) -> None:
        """Give a job to a free thread, or to a new one; with the lock."""
        worker = self._free.pop() if self._free else self._new_worker()
        worker.began = time.monotonic()
        self._busy.add(worker)
        worker.inbox.put(job)

    def _new_worker(self) -> Worker:
        worker = Worker()
        name = f"{self._name}-{len(self._threads)}"
        # A process that is not shut down in order must not wait for them.
        thread = threading.Thread(
            target=self._work, args=[worker], name=name, daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return worker

    def _work(self, worker: Worker) -> None:
        job = worker.inbox.get()
        while job is not None:
            job = self._do(job, worker) or self._wait(worker)
        connections["default"].close()

    def _do(self, job: Job, worker: Worker) -> Job | None:
        """Do one job; the next, if one waits already."""
        function, done = job
        result, error = None, None
        connections["default"].close_if_unusable_or_obsolete()
        try:
            result = function()
        except BaseException as exc:  # noqa: BLE001  It is raised where it was asked for.
            error = exc
        # Free before anyone is told, so that what is asked for next comes here.
        following = self._next(worker)
        try:
            done(result, error)
        except RuntimeError:
            # Without a loop nobody waits any more.
            return following
        return following

    def _next(self, worker: Worker) -> Job | None:
        """What waits for a thread; otherwise this one is free."""
        with self._lock:
            self._busy.discard(worker)
            if self._waiting and (self._closed or self._short_jobs() < self._at_once):
                worker.began = time.monotonic()
                self._busy.add(worker)
                return self._waiting.popleft()
            if self._closed:
                worker.inbox.put(None)
            else:
                self._free.append(worker)
            return None

    def _wait(self, worker: Worker) -> Job | None:
        try:
            return worker.inbox.get(timeout=self._linger)
        except Empty:
            if self._is_one_too_many(worker):
                connections["default"].close()
        return worker.inbox.get()

    def _is_one_too_many(self, worker: Worker) -> bool:
        with self._lock:
            return worker in self._free[: max(0, len(self._free) - self._idle)]
