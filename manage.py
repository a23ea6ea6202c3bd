#!/usr/bin/env python
"""llmbackend's command line: `manage.py help` lists the commands."""

import os
import signal
import sys
from pathlib import Path

# Their failures are others.
MIGRATES = {"migrate", "restore", "serve"}
NO_TABLES = (
    "The database does not have all tables yet. Run `manage.py migrate` first, or "
    "`manage.py serve`, which does that, too."
)


# They end in an order of their own.
SERVE = {"runserver", "serve"}


def main() -> None:
    write_whatever_comes()
    if not SERVE.intersection(sys.argv[1:2]):
        # As Ctrl-C does: nothing half-made is left, and no program that it started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmbackend.settings")
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError

    from llmbackend.config_reading import ConfigError

    try:
        execute_from_command_line(sys.argv)
    except ConfigError as error:
        sys.exit(str(error))
    except UnicodeEncodeError:
        if all(map(is_text, sys.argv)):
            raise
        sys.exit("An argument is not text in UTF-8.")
    except DatabaseError as error:
        if reason := why_unusable() or why_not_ours(error):
            sys.exit(f"The database cannot be used: {reason}")
        if MIGRATES.intersection(sys.argv[1:2]) or not tables_are_missing():
            raise
        sys.exit(NO_TABLES)


def write_whatever_comes() -> None:
    """What a terminal cannot show, or where there is none, ends no command half-way."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        else:
            stream.reconfigure(errors="backslashreplace")


def is_text(argument: str) -> bool:
    """Whether it can be encoded; what is not may still name a file."""
    return argument == argument.encode(errors="replace").decode()


def why_unusable() -> str:
    """Why no connection comes about of which use can be made; empty if one does."""
    from django.db import DatabaseError, connection

    from llmbackend.tables import why_unfit

    try:
        connection.ensure_connection()
    except DatabaseError as exc:
        return str(exc).strip().splitlines()[0]
    return why_unfit()


def why_not_ours(error: Exception) -> str:
    """Why no table can be made, in a line; empty if that is not what failed."""
    from django.db.migrations.exceptions import MigrationSchemaMissing

    is_that = isinstance(error, MigrationSchemaMissing)
    return str(error).splitlines()[0] if is_that else ""


def tables_are_missing() -> bool:
    """Whether there is a database that has not been migrated."""
    from django.db import DatabaseError

    from llmbackend.tables import are_migrated

    try:
        return not are_migrated()
    except DatabaseError:
        return False


if __name__ == "__main__":
    main()
