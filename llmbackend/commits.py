"""Writes of many requests, in one transaction where a commit is dear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, overload

from django.db import OperationalError, connection, transaction

from llmbackend.threads import DatabaseThreads

T = TypeVar("T")
R = TypeVar("R")

# A batch holds SQLite's one write lock for some 30 ms at most.
MOST_AT_ONCE = 32


@dataclass(slots=True, eq=False)
class Write:
    """
    What one request writes, and does right `after` the commit, on the same thread.

    All that `write` stores, it stores in `transaction.atomic` blocks. It then has a
    result or an error. Whatever it is carried out together with, both run in the
    context it was made in, which tells log lines and errors whose request they are of.
    """

    write: Callable[[], Any]
    after: Callable[[Any], Any] | None
    told: asyncio.Future[None]
    context: Context = field(default_factory=copy_context)
    result: Any = None
    error: BaseException | None = None

    def attempt(self, step: Callable[[], Any]) -> None:
        """Take `step`, whose error is this request's alone."""
        try:
            self.result = self.context.run(step)
        except Exception as exc:  # noqa: BLE001  It is raised where it was asked for.
            self.error = exc


class Commits:
    """
    Carries out writes on `threads`, together those that come during a commit.

    SQLite has one writer at a time, and each commit waits for the disk. So all that has
    come meanwhile is one transaction, in which the transaction of each is a savepoint:
    an error undoes only its own, and nobody is told before the commit. Where writers
    need not wait for each other, each is committed by itself as ever.
    """

    def __init__(self, threads: DatabaseThreads) -> None:
        self._threads = threads
        # On the event loop each task would make a connection object to be asked.
        self._together = connection.vendor == "sqlite"
        self._waiting: list[Write] = []
        self._busy = False

    @overload
    async def run(self, write: Callable[[], T]) -> T: ...
    @overload
    async def run(self, write: Callable[[], T], after: Callable[[T], R]) -> R: ...
    async def run(
        self, write: Callable[[], Any], after: Callable[[Any], Any] | None = None
    ) -> Any:
        """
        What `write` returns once it is committed; with `after`, what that makes of it.

        Carried out also when the caller is cancelled. Raises what either raises, what
        the commit raises, and ServerRestarting.
        """
        mine = Write(write, after, asyncio.get_running_loop().create_future())
        if self._together:
            self._waiting.append(mine)
            if not self._busy:
                self._busy = True
                # With all that comes in the same moment.
                asyncio.get_running_loop().call_soon(self._begin)
            await mine.told
        else:
            await self._threads.run(carry_out, [mine])
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _begin(self) -> None:
        batch = self._waiting[:MOST_AT_ONCE]
        del self._waiting[:MOST_AT_ONCE]
        ended = partial(self._ended, batch)
        try:
            self._threads.submit(partial(carry_out, batch), ended)
        except Exception as exc:  # noqa: BLE001  It is raised where it was asked for.
            ended(None, exc)

    def _ended(
        self, batch: list[Write], result: None, error: BaseException | None
    ) -> None:
        for each in batch:
            each.error = each.error or error
            if not each.told.done():
                each.told.set_result(None)
        self._busy = bool(self._waiting)
        if self._busy:
            self._begin()


def carry_out(writes: Sequence[Write]) -> None:
    """Carry out one write, or several in one transaction."""
    if len(writes) == 1:
        writes[0].attempt(writes[0].write)
    else:
        try:
            with transaction.atomic():
                for each in writes:
                    each.attempt(each.write)
                    must_go_on()
        except Exception as exc:  # noqa: BLE001  It is raised where it was asked for.
            for each in writes:
                each.error = each.error or exc
    for each in writes:
        if each.error is None and each.after is not None:
            each.attempt(partial(each.after, each.result))


def must_go_on() -> None:
    """Raise when the transaction is lost as a whole, as where the disk is full."""
    if connection.needs_rollback:
        raise OperationalError("A transaction of several writes was lost.")
