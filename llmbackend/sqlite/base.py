"""
One write at a time, in the order of their coming.

SQLite has one writer at a time. Who finds it busy asks again after a sleep, of up to a
tenth of a second: among the threads of one process, the lock is then free for most of
the time, and who comes last may go first. Here they wait for each other, and only one
of them, who asks often, for other processes.

Nor does anybody sleep within SQLite. There a connection is held meanwhile; a writer
whose thread happens to collect another's cursor as garbage would wait for the
connection, and its thread for the writer.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from django.db.backends.sqlite3 import base

R = TypeVar("R")

WAIT = 20.0
# Seconds between two looks whether another process still writes.
LOOK_EVERY = 0.001
# Another writes, or puts in order what a process that was killed had begun.
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY}
_turn = threading.Lock()


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection whose writes wait for their turn."""

    _has_turn = False

    def get_new_connection(self, conn_params: Any) -> Any:
        connection = super().get_new_connection(conn_params)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    def create_cursor(self, name: Any = None) -> Any:
        cursor = self.connection.cursor(factory=Cursor)
        cursor.database = self
        return cursor

    def in_turn(self, error: sqlite3.OperationalError, again: Callable[[], R]) -> R:
        """
        Do `again` what ended in `error`, as soon as nobody else keeps it from that.

        Raises what the driver raises: the same, where others had nothing to do with it
        or where it was a part of a transaction.
        """
        if not self._may_wait(error):
            raise error
        give_up_at = time.monotonic() + self.settings_dict["OPTIONS"]["timeout"]
        with self._having_turn():
            while True:
                try:
                    return again()
                except sqlite3.OperationalError as exc:
                    if not self._may_wait(exc) or time.monotonic() > give_up_at:
                        raise
                time.sleep(LOOK_EVERY)

    def _may_wait(self, error: sqlite3.OperationalError) -> bool:
        return error.sqlite_errorcode in BUSY and not self.connection.in_transaction

    @contextmanager
    def _having_turn(self) -> Iterator[None]:
        """Let no other thread of this process write meanwhile."""
        if self._has_turn:
            yield
            return
        # Whoever waits in vain is told by SQLite that it is locked.
        self._has_turn = _turn.acquire(timeout=WAIT)
        try:
            yield
        finally:
            self._end_turn()

    def _start_transaction_under_autocommit(self) -> None:
        self._has_turn = _turn.acquire(timeout=WAIT)
        try:
            self._begin()
        except BaseException:
            self._end_turn()
            raise

    def _begin(self) -> None:
        if self.force_debug_cursor or self.execute_wrappers:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
            return
        # Without a cursor of Django's, as prepared statements are.
        mode = self.transaction_mode or ""  # type: ignore[attr-defined]
        begin = partial(self.connection.execute, f"BEGIN {mode}")
        try:
            begin()
        except sqlite3.Error as exc:
            with self.wrap_database_errors:
                if not isinstance(exc, sqlite3.OperationalError):
                    raise
                self.in_turn(exc, begin)

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]
        self._end_turn()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._end_turn()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _turn.release()


class Cursor(base.SQLiteCursorWrapper):
    """Its statements that are no part of a transaction, or begin one, wait."""

    database: DatabaseWrapper

    def execute(self, query: str, params: Any = None) -> Any:
        try:
            return super().execute(query, params)
        except sqlite3.OperationalError as exc:
            return self.database.in_turn(exc, partial(super().execute, query, params))
