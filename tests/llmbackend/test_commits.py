"""Commits: writes that come together, each undone alone and told when it is stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from llmbackend.commits import MOST_AT_ONCE, Commits, Write, carry_out
from llmbackend.log import request_id
from llmbackend.threads import DatabaseThreads

pytestmark = pytest.mark.django_db(transaction=True)

together = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="Writers do not wait for each other there."
)


@asynccontextmanager
async def commits() -> AsyncIterator[Commits]:
    threads = DatabaseThreads(name="tested", size=4, at_once=1, idle=4)
    yield Commits(threads)
    threads.close()


def add(name: str) -> int:
    with transaction.atomic():
        return User.objects.create(username=name).pk


def fail(name: str) -> int:
    with transaction.atomic():
        add(name)
        raise LookupError(name)


def pks_and_names() -> list[tuple[int, str]]:
    return list(User.objects.values_list("pk", "username"))


def names() -> set[str]:
    return set(User.objects.values_list("username", flat=True))


def seen_by_another() -> set[str]:
    try:
        return names()
    finally:
        connections.close_all()


def write_of(function: Callable[[], Any], after: Any = None) -> Write:
    return Write(function, after, told=None)  # type: ignore[arg-type]


async def test_each_is_told_what_it_stored() -> None:
    async with commits() as tested:
        made = await asyncio.gather(
            *(tested.run(partial(add, f"u{number}")) for number in range(100))
        )
        stored = dict(await tested.run(pks_and_names))

    assert [stored[pk] for pk in made] == [f"u{number}" for number in range(100)]


async def test_one_that_fails_undoes_only_its_own() -> None:
    async with commits() as tested:
        first, bad, last = await asyncio.gather(
            *(tested.run(partial(add, "first")), tested.run(partial(fail, "bad"))),
            tested.run(partial(add, "last")),
            return_exceptions=True,
        )
        stored = await tested.run(names)

    assert isinstance(first, int)
    assert isinstance(last, int)
    assert isinstance(bad, LookupError)
    assert stored == {"first", "last"}


async def test_what_comes_after_is_done_when_others_can_see_what_was_written() -> None:
    seen: dict[int, set[str]] = {}

    def look(pk: int) -> int:
        looking = threading.Thread(target=lambda: seen.update({pk: seen_by_another()}))
        looking.start()
        looking.join()
        return -pk

    async with commits() as tested:
        made = await asyncio.gather(
            *(tested.run(partial(add, f"u{number}"), look) for number in range(3))
        )

    # Where writers need not wait for each other, they end in any order.
    assert all(f"u{number}" in seen[-pk] for number, pk in enumerate(made))


async def test_an_error_after_the_commit_is_ones_own() -> None:
    def complain(pk: int) -> int:
        raise LookupError(pk)

    async with commits() as tested:
        told = await asyncio.gather(
            tested.run(partial(add, "ann"), complain),
            tested.run(partial(add, "ben")),
            return_exceptions=True,
        )
        stored = await tested.run(names)

    assert isinstance(told[0], LookupError)
    assert isinstance(told[1], int)
    assert stored == {"ann", "ben"}


async def test_each_is_carried_out_in_its_own_context() -> None:
    def write() -> str:
        add(request_id.get())
        return request_id.get()

    async def ask(tested: Commits, name: str) -> tuple[str, str]:
        request_id.set(name)
        return await tested.run(write, lambda seen: (seen, request_id.get()))

    everyone = [f"u{number}" for number in range(5)]
    async with commits() as tested:
        told = await asyncio.gather(*(ask(tested, name) for name in everyone))

    assert told == [(name, name) for name in everyone]


async def test_who_leaves_early_is_carried_out_all_the_same() -> None:
    async with commits() as tested:
        leaving = asyncio.create_task(tested.run(partial(add, "ann")))
        await asyncio.sleep(0)
        leaving.cancel()
        await tested.run(partial(add, "ben"))

    # Where each commits by itself, the first may be the last to end.
    assert await asyncio.to_thread(seen_by_another) == {"ann", "ben"}


@together
def test_several_are_one_transaction_and_one_alone_has_no_savepoint(db: None) -> None:
    def statements(count: int) -> list[str]:
        writes = [
            write_of(partial(add, f"u{count}-{number}")) for number in range(count)
        ]
        with CaptureQueriesContext(connection) as seen:
            carry_out(writes)
        return [query["sql"].split()[0] for query in seen.captured_queries]

    alone, three = statements(1), statements(3)
    assert "SAVEPOINT" not in alone
    assert [three.count(word) for word in ("BEGIN", "COMMIT", "INSERT")] == [1, 1, 3]


@together
def test_nobody_is_told_of_what_was_lost_as_a_whole(db: None) -> None:
    def lose() -> None:
        # What SQLite does of itself when the disk is full.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
            raise OperationalError("database or disk is full")

    writes = [
        write_of(partial(add, "ann"), after=lambda pk: pk),
        write_of(lose),
        write_of(partial(add, "ben")),
    ]

    carry_out(writes)

    assert [type(each.error) for each in writes] == [OperationalError] * 3
    assert names() == set()


@together
async def test_no_transaction_is_of_more_than_its_share() -> None:
    sizes: list[int] = []

    class Counting(DatabaseThreads):
        def submit(self, function: Any, done: Any) -> None:
            sizes.append(len(function.args[0]))
            super().submit(function, done)

    threads = Counting(name="tested", size=2, at_once=1, idle=2)
    tested = Commits(threads)
    await asyncio.gather(
        *(tested.run(partial(add, f"u{number}")) for number in range(MOST_AT_ONCE + 9))
    )
    threads.close()

    assert sum(sizes) == MOST_AT_ONCE + 9
    assert max(sizes) == MOST_AT_ONCE


@together
async def test_all_are_told_where_no_thread_begins() -> None:
    class Exhausted(DatabaseThreads):
        fails = 2

        def submit(self, function: Any, done: Any) -> None:
            if self.fails:
                self.fails -= 1
                raise RuntimeError("can't start new thread")
            super().submit(function, done)

    threads = Exhausted(name="tested", size=2, at_once=1, idle=2)
    tested = Commits(threads)

    first = await asyncio.gather(
        *(tested.run(partial(add, f"u{number}")) for number in range(MOST_AT_ONCE + 3)),
        return_exceptions=True,
    )
    await tested.run(partial(add, "ann"))

    assert [type(error) for error in first] == [RuntimeError] * (MOST_AT_ONCE + 3)
    assert await tested.run(names) == {"ann"}
    threads.close()
