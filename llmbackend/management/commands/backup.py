"""manage.py backup: one consistent copy of everything, while the server runs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from llmbackend import postgresql
from llmbackend.keys import key_file

PAGES_AT_ONCE = 2000


class Command(BaseCommand):
    help = (
        "Copies the database, and beside it the file with the secrets, to PATH; the "
        "server may go on."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, help="a file that does not exist yet")

    def handle(self, *, path: Path, **options: Any) -> None:
        database = settings.CONFIG.sqlite.path
        if not settings.CONFIG.database.url and not database.exists():
            # SQLite would make one, and its copy would look like a backup.
            raise CommandError(f"{database}: there is no such database.")
        try:
            self.write_to(path)
        except OSError as exc:
            problem = f"cannot be written: {exc.strerror}"
            raise CommandError(f"{path}: {problem}.") from exc
        except sqlite3.Error as exc:
            raise CommandError(f"{database}: cannot be copied: {exc}.") from exc
        self.stdout.write(f"The backup is complete: {path}")

    def write_to(self, path: Path) -> None:
        if path.exists() or not path.parent.is_dir():
            raise CommandError(f"{path}: expected a new file in an existing folder.")
        draft = path.with_name(f".{path.name}.part")
        draft.touch(mode=0o600)
        try:
            if settings.CONFIG.database.url:
                postgresql.dump(draft)
            else:
                # Before the rows: a key goes when none of them is sealed with it.
                secrets = key_file(settings.CONFIG).read_bytes()
                self.copy_sqlite(draft)
                write_secrets(secrets, path.with_name(f"{path.name}.keys"))
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)

    def copy_sqlite(self, target: Path) -> None:
        """SQLite's own online copy: what was committed when it began, and no less."""

        def progress(status: int, remaining: int, total: int) -> None:
            self.stderr.write(f"{total - remaining} of {total} pages", ending="\r")

        with (
            closing(sqlite3.connect(settings.CONFIG.sqlite.path)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            # Of one moment: else whatever another process writes has it begin anew,
            # and a large one beside a server that writes would never come to an end.
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            source.backup(copy, pages=PAGES_AT_ONCE, progress=progress)
            # One file, not three, and readable where nothing may be written.
            copy.execute("PRAGMA journal_mode=DELETE")
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
        self.stderr.write("")
        if verdict != "ok":
            raise CommandError("The copy is damaged, and so is perhaps the database.")


def write_secrets(secrets: bytes, target: Path) -> None:
    """Without them nobody's stored API keys can be read."""
    # What lies there belongs to a backup that is gone, and may be longer.
    target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(secrets)
