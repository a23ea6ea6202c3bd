"""DatabaseThreads: how many threads there are, and how many connections they hold."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from django.db import connection

from llmbackend.threads import DatabaseThreads
from tests.chat.eventually import eventually
from tests.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def nothing_older() -> Iterator[None]:
    """What other tests left by the million is not looked at for connections."""
    gc.freeze()
    yield
    gc.unfreeze()


def open_connections() -> int:
    """
    How many connections this process has, whichever thread's they are.

    Those that were made before the test do not count.
    """
    kind = connection.Database.Connection  # type: ignore[attr-defined]
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


@asynccontextmanager
async def pool(
    *, size: int, idle: int, at_once: int = 1, long: float = 0.005
) -> AsyncIterator[DatabaseThreads]:
    threads = DatabaseThreads(
        name="tested", size=size, at_once=at_once, idle=idle, long=long, linger=0.05
    )
    yield threads
    threads.close()


def query() -> int:
    """Use this thread's connection; returns the thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return threading.get_ident()


class Meeting:
    """Holds jobs on their threads until `parties` of them are there."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    def job(self, then: Callable[[], int] = query) -> int:
        result = then()
        self._barrier.wait(PATIENCE)
        return result


async def busy(threads: DatabaseThreads, count: int) -> set[int]:
    meeting = Meeting(count)
    return set(await asyncio.gather(*(threads.run(meeting.job) for _ in range(count))))


async def test_one_after_the_other_they_share_one_thread_and_connection() -> None:
    before = open_connections()
    async with pool(size=4, idle=4) as threads:
        used = {await threads.run(query) for _ in range(10)}

        assert len(used) == 1
        assert open_connections() == before + 1
    assert open_connections() == before


async def test_a_thread_starts_only_when_all_are_busy() -> None:
    async with pool(size=4, idle=4) as threads:
        assert len(await busy(threads, 3)) == 3
        assert len(await busy(threads, 2) | await busy(threads, 2)) <= 3


@pytest.mark.parametrize("at_once", [1, 2])
async def test_short_jobs_wait_for_each_other(at_once: int) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def counted() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        query()
        with lock:
            running -= 1
        return threading.get_ident()

    # None of them is long here, however busy the machine.
    async with pool(size=4, idle=4, at_once=at_once, long=60) as threads:
        used = await asyncio.gather(*(threads.run(counted) for _ in range(40)))

    assert most <= at_once
    assert len(set(used)) <= at_once


async def test_a_long_job_holds_nobody_up() -> None:
    held = threading.Event()
    async with pool(size=2, idle=2) as threads:
        long = asyncio.create_task(threads.run(held.wait, 20))
        try:
            async with asyncio.timeout(PATIENCE):
                assert await threads.run(query)
            assert not long.done()
        finally:
            held.set()
        assert await long


async def test_no_more_connections_than_threads() -> None:
    before = open_connections()
    async with pool(size=3, idle=3) as threads:
        most = 0

        def counted() -> int:
            nonlocal most
            query()
            most = max(most, open_connections())
            return threading.get_ident()

        used = await asyncio.gather(*(threads.run(counted) for _ in range(12)))

        assert len(set(used)) <= 3
        assert most <= before + 3


async def test_idle_threads_beyond_the_limit_close_theirs() -> None:
    before = open_connections()
    async with pool(size=4, idle=2) as threads:
        await busy(threads, 4)
        assert eventually(lambda: open_connections() == before + 2)

        await busy(threads, 4)
        assert eventually(lambda: open_connections() == before + 2)


async def test_what_was_busy_last_keeps_its_connection() -> None:
    before = open_connections()
    async with pool(size=4, idle=1) as threads:
        await busy(threads, 4)
        last = await threads.run(query)
        assert eventually(lambda: open_connections() == before + 1)

        assert await threads.run(query) == last
        assert open_connections() == before + 1


async def test_without_idle_connections_an_idle_thread_has_none() -> None:
    before = open_connections()
    async with pool(size=2, idle=0) as threads:
        await threads.run(query)

        assert eventually(lambda: open_connections() == before)


async def test_a_connection_is_replaced_after_its_lifetime() -> None:
    def underlying(lifetime: float | None) -> object:
        connection.settings_dict["CONN_MAX_AGE"] = lifetime
        query()
        return connection.connection

    async with pool(size=1, idle=1) as threads:
        kept = await threads.run(underlying, None)
        assert await threads.run(underlying, None) is kept
        # What is opened now is to be closed after no time at all.
        await threads.run(lambda: connection.close())
        aged = await threads.run(underlying, 0.0)
        assert await threads.run(underlying, None) is not aged


async def test_a_job_sees_the_callers_context_and_its_error_arrives() -> None:
    from llmbackend.log import request_id

    request_id.set("tested")

    def failing() -> None:
        raise LookupError(request_id.get())

    async with pool(size=1, idle=0) as threads:
        with pytest.raises(LookupError, match="tested"):
            await threads.run(failing)
