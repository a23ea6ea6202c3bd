"""PostgreSQL's own programs, told of the database that config.yaml names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import connection
from psycopg.pq import Conninfo

# Another server knows other roles.
READ = ("pg_restore", "--no-owner", "--no-privileges", "--clean", "--if-exists")
WRITE = ("psql", "--no-psqlrc", "--quiet", "--output", os.devnull)
# Not --single-transaction: at the end of what it is given psql commits, also where
# that ends because whoever gave it was interrupted.
BEGIN = ("--set", "ON_ERROR_STOP=1", "--command", "BEGIN")


def dump(path: Path) -> None:
    """Write the database to a file in pg_dump's own format; raise CommandError."""
    _require("pg_dump")
    command = ["pg_dump", "--format=custom", "--file", str(path)]
    if subprocess.run(command, env=_environment(), check=False).returncode:
        raise CommandError("pg_dump failed; it says why above.")


def check(path: Path) -> None:
    """Read a backup to its end; raise CommandError for what is no whole one of ours."""
    _require("pg_restore")
    for looked in ("--list", f"--file={os.devnull}"):
        command = [*READ, looked, str(path)]
        done = subprocess.run(command, capture_output=True, check=False)
        is_ours = looked != "--list" or b" accounts_user " in done.stdout
        if done.returncode or not is_ours:
            raise CommandError(f"{path}: not a whole backup of llmbackend's.")


def restore(path: Path) -> None:
    """
    Put a backup in the place of all tables, or raise CommandError and change nothing.

    Tables that the backup does not know, because they are newer, go too: the migrations
    make them again.
    """
    _require("psql")
    old = ", ".join(
        map(connection.ops.quote_name, connection.introspection.table_names())
    )
    emptied = ["--command", f"DROP TABLE {old} CASCADE"] if old else []
    connection.close()
    with subprocess.Popen(
        [*WRITE, *BEGIN, *emptied, "--file=-"],
        stdin=subprocess.PIPE,
        env=_environment(),
    ) as database:
        command = [*READ, "--file=-", str(path)]
        read = subprocess.run(command, stdout=database.stdin, check=False)
        if not read.returncode:
            database.communicate(b"COMMIT;\n")
    if read.returncode or database.returncode:
        raise CommandError("The backup could not be restored; why is said above.")


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise CommandError(f"{program} is not installed (Debian: postgresql-client).")


def _environment() -> dict[str, str]:
    # An argument would show the password to everybody on the machine.
    return {**os.environ, **variables_of(connection.get_connection_params())}


def variables_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """What libpq's programs read a connection from, with what the URL's query says."""
    return {
        option.envvar.decode(): str(parameters[option.keyword.decode()])
        for option in Conninfo.get_defaults()
        if option.envvar and option.keyword.decode() in parameters
    }
