"""manage.py restore: put a backup in the place of the database."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from llmbackend import postgresql
from llmbackend.keys import key_file


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
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as backup:
            (verdict,) = backup.execute("PRAGMA integrity_check").fetchone()
            backup.execute("SELECT 1 FROM accounts_user LIMIT 1")
    except sqlite3.DatabaseError:
        verdict = "not a backup"
    if verdict != "ok":
        raise CommandError(f"{path}: not a whole backup of llmbackend's.")


def holds_users() -> bool:
    if "accounts_user" not in connection.introspection.table_names():
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM accounts_user LIMIT 1")
        return cursor.fetchone() is not None


def replace_sqlite(path: Path) -> None:
    """The old file stays, renamed, until the operator removes it."""
    connection.close()
    database = settings.CONFIG.sqlite.path
    draft = database.with_name(f".{database.name}.restored")
    shutil.copyfile(path, draft)
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    if database.exists():
        database.replace(database.with_name(f"{database.name}.before-restore"))
    draft.replace(database)
    secrets = path.with_name(f"{path.name}.keys")
    if secrets.is_file():
        target = key_file(settings.CONFIG)
        draft = target.with_name(f".{target.name}.restored")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.read_bytes())
        draft.replace(target)
