"""
One write transaction at a time, in the order of their coming.

SQLite has one writer at a time. Who finds it busy asks again after a sleep, of up to a
tenth of a second: among the threads of one process, the lock is then free for most of
the time, and who comes last may go first. Here they wait for each other, and only one
of them, who asks often, for other processes.
"""

from __future__ import annotations

import sqlite3
import threading
import time

from django.db import OperationalError
from django.db.backends.sqlite3 import base

WAIT = 20.0
# Seconds between two looks whether another process still writes.
LOOK_EVERY = 0.001
_turn = threading.Lock()


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection whose transactions wait for their turn."""

    _has_turn = False

    def _start_transaction_under_autocommit(self) -> None:
        # Whoever waits in vain is told by SQLite that it is locked.
        self._has_turn = _turn.acquire(timeout=WAIT)
        try:
            self._begin()
        except BaseException:
            self._end_turn()
            raise

    def _begin(self) -> None:
        patience = self.settings_dict["OPTIONS"]["timeout"]
        give_up_at = time.monotonic() + patience
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    super()._start_transaction_under_autocommit()  # type: ignore[misc]
                    return
                except OperationalError as exc:
                    if not _is_busy(exc) or time.monotonic() > give_up_at:
                        raise
                time.sleep(LOOK_EVERY)
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {patience * 1000:.0f}")

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


def _is_busy(error: OperationalError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_BUSY
