"""The database, as it is found beside the server that uses it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg

STREAMING = "SELECT id, writer_id FROM conversations_message WHERE status = 'streaming'"

# Answers being written: the row, and who writes it.
Streaming = set[tuple[int, str]]


class Store(Protocol):
    """Where a server under test keeps everything."""

    config: dict[str, Any]

    def streaming(self) -> Streaming: ...
    def is_sound(self) -> bool: ...


class SQLite:
    """The file of a server under test."""

    def __init__(self, file: Path) -> None:
        self.config: dict[str, Any] = {}
        self._file = file

    def streaming(self) -> Streaming:
        with closing(sqlite3.connect(self._file)) as database:
            return {(pk, str(writer)) for pk, writer in database.execute(STREAMING)}

    def is_sound(self) -> bool:
        with closing(sqlite3.connect(self._file)) as database:
            found = database.execute("PRAGMA integrity_check").fetchall()
        return found == [("ok",)]


class PostgreSQL:
    """A database that is there already; it answers for its own soundness."""

    def __init__(self, url: str) -> None:
        self.config = {"database": {"url": url}, "jwt": {"secret": "chaos " * 8}}
        self._url = url

    def streaming(self) -> Streaming:
        with psycopg.connect(self._url) as database:
            return {(pk, str(writer)) for pk, writer in database.execute(STREAMING)}

    def is_sound(self) -> bool:
        return True
