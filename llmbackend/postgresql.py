"""PostgreSQL's own programs, told of the database that config.yaml names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from django.core.management.base import CommandError
from django.db import connection


def run(program: str, options: Sequence[str]) -> None:
    """Run `pg_dump` or `pg_restore`; raise CommandError when it cannot, or fails."""
    if shutil.which(program) is None:
        raise CommandError(f"{program} is not installed (Debian: postgresql-client).")
    # In the environment: an argument would show the password to everybody here.
    environment = {**os.environ, **environment_of(connection.settings_dict)}
    if subprocess.run([program, *options], env=environment, check=False).returncode:
        raise CommandError(f"{program} failed; it says why above.")


def environment_of(settings: dict[str, object]) -> dict[str, str]:
    """What libpq reads a connection from."""
    names = {
        "PGHOST": "HOST",
        "PGPORT": "PORT",
        "PGUSER": "USER",
        "PGPASSWORD": "PASSWORD",
        "PGDATABASE": "NAME",
    }
    return {name: str(settings[key]) for name, key in names.items() if settings[key]}
