"""manage.py restore: put a backup in the place of the database."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from llmbackend import postgresql
from llmbackend.keys import is_complete, keep_owner, key_file


class Command(BaseCommand):
    help = (
        "Puts a backup, with the secrets that lie beside it, in the place of the "
        "database; the server must be stopped."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, help="what manage.py backup made")
        parser.add_argument(
            "--force",
            action="store_true",
            help="replace a database that holds users already",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="check the backup, change nothing"
        )

    def handle(self, *, path: Path, force: bool, dry_run: bool, **options: Any) -> None:
        if not path.is_file():
            raise CommandError(f"{path}: there is no such file.")
        on_postgresql = bool(settings.CONFIG.database.url)
        check = postgresql.check if on_postgresql else check_sqlite
        check(path)
        if not force and holds_users():
            raise CommandError("The database holds users; --force replaces it.")
        if dry_run:
            self.stdout.write(f"{path} can be restored.")
            return
        put = postgresql.restore if on_postgresql else replace_sqlite
        put(path)
        call_command("migrate", verbosity=0, interactive=False)
        self.stdout.write(
            "The backup is in place. If Redis is configured, empty it before the start."
        )


def check_sqlite(path: Path) -> None:
    """Raise CommandError for what is no whole backup of this program's."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as backup:
            (verdict,) = backup.execute("PRAGMA integrity_check").fetchone()
            backup.execute("SELECT 1 FROM accounts_user LIMIT 1")
    except sqlite3.DatabaseError:
        verdict = "not a backup"
    if verdict != "ok":
        raise CommandError(f"{path}: not a whole backup of llmbackend's.")
    secrets = secrets_of(path)
    # With what is none nothing would start any more, this command neither.
    if secrets.is_file() and not is_complete(secrets.read_bytes()):
        raise CommandError(f"{secrets}: not a complete key file.")


def secrets_of(backup: Path) -> Path:
    return Path(f"{backup}.keys")


def holds_users() -> bool:
    config = settings.CONFIG
    if not config.database.url and not config.sqlite.path.exists():
        return False  # To look would make one.
    if "accounts_user" not in connection.introspection.table_names():
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM accounts_user LIMIT 1")
        return cursor.fetchone() is not None


def replace_sqlite(path: Path) -> None:
    """What was there stays, renamed, until the operator removes it."""
    connection.close()
    database, keys = settings.CONFIG.sqlite.path, key_file(settings.CONFIG)
    with held_alone(database):
        put_in_place(path, database=database, keys=keys)


@contextmanager
def held_alone(database: Path) -> Iterator[None]:
    """
    Keep others from the database meanwhile; raise CommandError if one is at it.

    It would go on with the file that was replaced, and all it stores would be lost.
    """
    if not database.exists():
        yield
        return
    with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as old:
        try:
            # Only who is alone may. What a killed server had committed stands in the
            # log until then.
            old.execute("PRAGMA journal_mode=DELETE")
            old.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as exc:
            # What is damaged can be replaced nevertheless.
            if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                problem = "another process uses it; stop the server first"
                raise CommandError(f"{database}: {problem}.") from exc
        yield


def put_in_place(path: Path, *, database: Path, keys: Path) -> None:
    secrets = secrets_of(path)
    # Both are read before anything moves: they may be what an earlier restore kept.
    targets = {database: path, keys: secrets} if secrets.is_file() else {database: path}
    drafts = {target: draft_of(target, source) for target, source in targets.items()}
    keep(database)
    for target, draft in drafts.items():
        draft.replace(target)


def draft_of(target: Path, source: Path) -> Path:
    """A copy of `source` beside `target`, for the owner alone of what is there."""
    draft = target.with_name(f".{target.name}.restored")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    keep_owner(draft, of=target)
    shutil.copyfile(source, draft)
    return draft


def keep(database: Path) -> None:
    """
    Give the database, with its secrets and its log, another name.

    It has its old one, too, until the backup takes that: there is always one.
    """
    if not database.exists():
        return
    for suffix in ("", "-wal", ".keys"):
        there = Path(f"{database}{suffix}")
        kept = Path(f"{database}.before-restore{suffix}")
        kept.unlink(missing_ok=True)
        if there.exists():
            kept.hardlink_to(there)
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
