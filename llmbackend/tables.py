"""Whether the database has what the code expects of it, told without migrating."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pkgutil import iter_modules

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_permission_codename
from django.contrib.auth.models import Permission
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

# Any number that other programs on the same database do not use.
ADVISORY_LOCK = int.from_bytes(b"llmback")


def are_migrated() -> bool:
    """
    Whether every migration there is has been recorded; names decide.

    Raises DatabaseError and InterfaceError.
    """
    applied = MigrationRecorder(connection).applied_migrations()
    return applied.keys() >= set(migrations())


def are_complete() -> bool:
    """
    Whether `migrate` has nothing to do; False also where the database cannot be asked.

    It makes the permissions after the migrations: one that was killed in between has
    them still to make.
    """
    try:
        if not are_migrated():
            return False
        made = Permission.objects.values_list("content_type__app_label", "codename")
        return set(made) >= set(_permissions())
    except (DatabaseError, InterfaceError):
        return False


@contextmanager
def claimed() -> Iterator[None]:
    """
    Of all processes on this database, only one at a time is in the block.

    To migrate in: two that start together would make every table twice. Raises
    OperationalError.
    """
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        # The folder, since the locks of the file itself are SQLite's.
        folder = os.open(settings.CONFIG.sqlite.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])


def why_unfit() -> str:
    """
    What is wrong with a database that can be reached, in a line; empty if nothing.

    Raises OperationalError where it cannot.
    """
    if connection.vendor == "postgresql":
        connection.ensure_connection()
        encoding = connection.connection.info.parameter_status("server_encoding")
        return "" if encoding == "UTF8" else f"its encoding is {encoding}, not UTF8"
    database = settings.CONFIG.sqlite.path
    for place in (database, database.parent):
        if place.exists() and not os.access(place, os.W_OK):
            return f"{place} is not this user's to write to"
    return ""


def migrations() -> Iterator[tuple[str, str]]:
    """The apps and names of all migrations; none is imported, which takes long."""
    for app in apps.get_app_configs():
        module, _ = MigrationLoader.migrations_module(app.label)
        spec = find_spec(module) if module else None
        places = spec.submodule_search_locations if spec else None
        for found in iter_modules(places or ()):
            if not found.ispkg and found.name[0] not in "_~":
                yield app.label, found.name


def _permissions() -> Iterator[tuple[str, str]]:
    """The apps and code names of what may be permitted in the admin."""
    for model in apps.get_models():
        about = model._meta
        for action in about.default_permissions:
            yield about.app_label, get_permission_codename(action, about)
        for codename, _ in about.permissions:
            yield about.app_label, codename
