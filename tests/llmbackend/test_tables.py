"""serve migrates what is not up to date, and otherwise does not even look further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from llmbackend import tables
from tests import postgresql_server
from tests.served import ServeProcess, serving


@pytest.fixture
def migrated(tmp_path: Path) -> ServeProcess:
    """A server that does not run yet."""
    server = ServeProcess(tmp_path, config={})
    server.make_database()
    return server


def start_and_stop(server: ServeProcess) -> None:
    with serving(server.directory, server={"port": server.port}):
        pass


def test_what_is_up_to_date_is_served_without_reading_its_migrations(
    migrated: ServeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python then names each module it imports, on standard error.
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")

    start_and_stop(migrated)

    assert "llmbackend.tables" in migrated.log
    assert "django.db.migrations.executor" not in migrated.log


def test_an_older_database_is_migrated_before_it_is_served(
    migrated: ServeProcess,
) -> None:
    migrated.manage("migrate", "rag", "0001")

    start_and_stop(migrated)

    assert "[ ]" not in migrated.manage("showmigrations")


def test_permissions_that_a_killed_migration_did_not_make_are_made(
    migrated: ServeProcess,
) -> None:
    made = "SELECT codename FROM auth_permission ORDER BY codename"
    before = migrated.query(made)
    migrated.query("DELETE FROM auth_permission WHERE codename = 'view_chunk'")

    start_and_stop(migrated)

    assert migrated.query(made) == before


def test_the_migrations_are_found_that_django_finds(database: None) -> None:
    loader = MigrationLoader(connection)

    assert set(tables.migrations()) == set(loader.disk_migrations)
    assert tables.are_complete()


def test_servers_that_start_together_on_nothing_migrate_once(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"sqlite": {"path": str(tmp_path / "shared.db")}}
    if postgresql_server.is_the_runs():
        shared = postgresql_server.config_for(tmp_path)
    started = []
    try:
        for name in ["one", "two", "three"]:
            (tmp_path / name).mkdir()
            server = ServeProcess(tmp_path / name, config=shared, from_nothing=True)
            started.append(server)
            server.start()
        for server in started:
            server.wait_until_ready()
    finally:
        for server in started:
            server.kill()
