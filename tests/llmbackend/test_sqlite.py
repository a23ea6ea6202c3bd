"""llmbackend.sqlite: the threads of a process write one after the other."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from llmbackend.prepared import Written
from llmbackend.sqlite.base import DatabaseWrapper
from tests.chat.eventually import eventually
from tests.patience import PATIENCE

THREADS, WRITES = 8, 25


class Connections:
    """Connections to one database, which wait for SQLite's lock if told how long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.connection() as made, made.cursor() as cursor:
            cursor.execute("CREATE TABLE counter (n INTEGER)")
            cursor.execute("INSERT INTO counter VALUES (0)")

    @contextmanager
    def connection(self, *, timeout: float = 0) -> Iterator[Any]:
        settings = {
            "NAME": self._path,
            "OPTIONS": {"timeout": timeout, "transaction_mode": "IMMEDIATE"},
            "AUTOCOMMIT": True,
            "TIME_ZONE": None,
            "CONN_MAX_AGE": None,
            "CONN_HEALTH_CHECKS": False,
        }
        made = DatabaseWrapper(settings, "counter")
        try:
            yield made
        finally:
            made.close()

    def count(self) -> int:
        with self.connection() as made, made.cursor() as cursor:
            return int(cursor.execute("SELECT n FROM counter").fetchone()[0])


@pytest.fixture
def connections(database: None, tmp_path: Path) -> Connections:
    return Connections(tmp_path / "counter.db")


def begin(connection: Any) -> None:
    connection.set_autocommit(
        False, force_begin_transaction_with_broken_autocommit=True
    )


def update(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE counter SET n = n + 1")


def update_directly(connection: Any) -> None:
    """As a statement that is put together once."""
    sql = "UPDATE counter SET n = n + 1"
    made = Written(sql=sql, parameters=(), direct=sql, direct_parameters=(), results=())
    made.run(connection, {}, lambda cursor: cursor.rowcount, "")


def add_one(connection: Any) -> None:
    begin(connection)
    update(connection)
    connection.commit()
    connection.set_autocommit(True)


def on_another_thread(work: Callable[[], object]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001  It is raised below.
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("add", [add_one, update, update_directly])
def test_threads_wait_for_each_other_and_not_for_sqlite(
    connections: Connections, add: Callable[[Any], None]
) -> None:
    failed: list[Exception] = []

    def write() -> None:
        timeout = 0 if add is add_one else PATIENCE
        with connections.connection(timeout=timeout) as connection:
            for _ in range(WRITES):
                try:
                    add(connection)
                except OperationalError as exc:
                    failed.append(exc)

    threads = [threading.Thread(target=write) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert connections.count() == THREADS * WRITES


@pytest.mark.parametrize("how", ["rollback", "close"])
def test_a_transaction_that_was_given_up_keeps_nobody_waiting(
    connections: Connections, how: str
) -> None:
    with connections.connection() as connection:
        begin(connection)
        getattr(connection, how)()
        on_another_thread(lambda: _write(connections))

    assert connections.count() == 1


def test_a_commit_that_fails_keeps_nobody_waiting(connections: Connections) -> None:
    with connections.connection() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        cursor.execute(
            "CREATE TABLE child (up REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )
        begin(connection)
        cursor.execute("INSERT INTO child VALUES (7)")
        with pytest.raises(Exception, match="FOREIGN KEY"):
            connection.commit()
        connection.rollback()
        on_another_thread(lambda: _write(connections))

    assert connections.count() == 1


def test_who_is_told_that_it_is_locked_keeps_nobody_waiting(
    connections: Connections,
) -> None:
    with connections.connection() as holder, connections.connection() as connection:
        # As another process would, which takes no turn here.
        holder.ensure_connection()
        holder.connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            begin(connection)
        holder.connection.rollback()
        on_another_thread(lambda: _write(connections))

    assert connections.count() == 1


def test_another_process_is_waited_for(connections: Connections) -> None:
    with connections.connection() as holder:
        holder.ensure_connection()
        holder.connection.execute("BEGIN IMMEDIATE")
        waiting = threading.Event()

        def write() -> None:
            with connections.connection(timeout=PATIENCE) as connection:
                connection.ensure_connection()
                waiting.set()
                add_one(connection)

        thread = threading.Thread(target=write)
        thread.start()
        assert waiting.wait(PATIENCE)
        time.sleep(0.05)
        holder.connection.rollback()
        thread.join(PATIENCE)

    assert connections.count() == 1


@pytest.mark.parametrize("write", [begin, update, update_directly])
def test_it_is_waited_for_as_long_as_is_configured(
    connections: Connections, write: Callable[[Any], None]
) -> None:
    with (
        connections.connection() as holder,
        connections.connection(timeout=0.2) as connection,
    ):
        holder.ensure_connection()
        holder.connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(OperationalError, match="locked"):
            write(connection)

        assert time.monotonic() - began >= 0.2
        holder.connection.rollback()
        on_another_thread(lambda: _write(connections))


def test_a_writer_that_collects_garbage_waits_for_nobody_who_waits_for_it(
    connections: Connections,
) -> None:
    raised: list[OperationalError] = []

    def write() -> None:
        with connections.connection(timeout=PATIENCE) as connection:
            connection.ensure_connection()
            # A cursor that is not read to its end, and goes with a cycle.
            cursor = connection.connection.execute("SELECT 1 UNION SELECT 2")
            cycle = [cursor]
            cycle.append(cycle)
            del cursor, cycle
            try:
                update(connection)
            except OperationalError as exc:
                raised.append(exc)

    gc.disable()
    try:
        with connections.connection() as connection:
            begin(connection)
            thread = threading.Thread(target=write)
            thread.start()
            assert eventually(lambda: waits_for_its_turn(thread), PATIENCE)
            gc.collect()
            connection.rollback()
        thread.join(2 * PATIENCE)
    finally:
        gc.enable()

    assert not raised
    assert connections.count() == 1


def waits_for_its_turn(thread: threading.Thread) -> bool:
    """And so not within SQLite."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "_having_turn"


def _write(connections: Connections) -> None:
    with connections.connection() as connection:
        add_one(connection)
