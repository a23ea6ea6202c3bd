"""The operator's commands on PostgreSQL, as processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests import fake_provider, postgresql_server
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE
from tests.postgresql_server import PostgreSQLServer
from tests.rag.embeddings import STATUTE, added, found, make_base
from tests.served import ServeProcess, fake_section

CREATE = "/api/conversations/create"
QUERY = "不可抗力"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
# What nobody does through the API, or not yet.
THE_REST = """
    INSERT INTO accounts_tally VALUES ('failed', 3, 2000000000);
    INSERT INTO auth_group (name) VALUES ('Editors');
    INSERT INTO auth_group_permissions (group_id, permission_id)
        SELECT g.id, p.id FROM auth_group g, auth_permission p;
    INSERT INTO accounts_user_groups (user_id, group_id)
        SELECT u.id, g.id FROM accounts_user u, auth_group g;
    INSERT INTO accounts_user_user_permissions (user_id, permission_id)
        SELECT u.id, min(p.id) FROM accounts_user u, auth_permission p GROUP BY u.id;
    INSERT INTO django_session VALUES ('key', 'data', now());
    INSERT INTO django_admin_log
        (action_time, object_repr, action_flag, change_message, user_id)
        SELECT now(), 'Größe 大小', 1, '', id FROM accounts_user;
    INSERT INTO conversations_answerhour VALUES (now(), '{}', '{}', 1, 2);
    INSERT INTO conversations_searchsegment (owner_id, messages)
        SELECT id, '\\x00' FROM accounts_user;
    INSERT INTO conversations_searchbucket (segment_id, number, marks)
        SELECT id, 1, '\\x00' FROM conversations_searchsegment;
"""


def rows(url: str) -> dict[str, list[str]]:
    """Every row of every table, as PostgreSQL writes it."""
    with psycopg.connect(url) as session:
        tables = [name for (name,) in session.execute(TABLES).fetchall()]
        return {
            table: [
                text
                for (text,) in session.execute(
                    f"SELECT t::text FROM {table} t ORDER BY 1"  # noqa: S608
                )
            ]
            for table in tables
        }


@dataclass
class Installation:
    """A server that was used and has ended, and a backup made while it served."""

    server: ServeProcess
    database: PostgreSQLServer
    provider: FakeProvider
    token: str
    conversation: int
    base: str
    document: str
    backup: Path
    rows: dict[str, list[str]]

    def another(
        self, directory: Path, *, like: ServeProcess | None = None
    ) -> ServeProcess:
        """One with the same secret, on an empty database or a copy of another's."""
        config = postgresql_server.config_for(
            directory, server=self.database, like=like.database_url if like else ""
        )
        providers = fake_section(self.provider.base_url)
        return ServeProcess(directory, config={"providers": providers, **config})


@pytest.fixture(scope="module")
def used(
    postgresql: PostgreSQLServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("used")
    backup = directory / "monday.dump"
    with fake_provider.running() as provider:
        models = Script(body=b'{"data": []}', headers={"Content-Type": "text/json"})
        provider.routes["/models"] = lambda _: models
        config = postgresql_server.config_for(directory, server=postgresql)
        providers = fake_section(provider.base_url)
        server = ServeProcess(directory, config={"providers": providers, **config})
        try:
            server.start()
            server.wait_until_ready()
            with server.signed_in() as alice:
                conversation, base, document = use(alice)
                token = alice.headers["Authorization"]
            server.query(THE_REST)
            assert server.run("backup", str(backup)).returncode == 0
        finally:
            server.terminate()
            server.wait(PATIENCE)
        yield Installation(
            server=server,
            database=postgresql,
            provider=provider,
            token=token,
            conversation=conversation,
            base=base,
            document=document,
            backup=backup,
            rows=rows(server.database_url),
        )


@pytest.fixture(scope="module")
def restored(
    used: Installation, tmp_path_factory: pytest.TempPathFactory
) -> ServeProcess:
    """Another installation, in which the backup was restored once."""
    other = used.another(tmp_path_factory.mktemp("restored"))
    assert other.run("restore", str(used.backup)).returncode == 0
    return other


def use(alice: httpx2.Client) -> tuple[int, str, str]:
    """A conversation with a key of its own, a base, and a document in it."""
    body = {"title": "大小", "model": "gpt-4o", "api_key": "sk-own"}
    once = {"Idempotency-Key": "once"}
    made = alice.post(CREATE, json=body, headers=once).raise_for_status().json()
    conversation = int(made["conversation_id"])
    asked = alice.post(f"/api/chat/{conversation}", json={"message": "Größe?"})
    asked.raise_for_status()
    base = make_base(alice, embedding_model="local-ngram")
    document = added(alice, base, STATUTE)
    key = {"name": "Mine", "scopes": ["chat"]}
    alice.post("/api/users/keys", json=key).raise_for_status()
    who = {"username": "alice", "password": "correct horse battery"}
    other = alice.post("/api/users/login", json=who).json()["token"]
    authorization = {"Authorization": f"Bearer {other}"}
    alice.post("/api/users/logout", headers=authorization).raise_for_status()
    return conversation, base, document


def path_with(program: Path, script: str) -> str:
    """A PATH on which a program comes before the one of the same name."""
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


class TestBackups:
    def test_every_row_of_every_table_comes_back(
        self, used: Installation, restored: ServeProcess
    ) -> None:
        before = used.rows
        assert [table for table, found in before.items() if not found] == []
        assert stat.S_IMODE(used.backup.stat().st_mode) == 0o600

        after = rows(restored.database_url)

        assert after.keys() == before.keys()
        for table, found_before in before.items():
            # The server wrote its last heartbeat after the backup.
            if table != "conversations_writer":
                assert after[table] == found_before, table

    def test_a_server_goes_on_with_what_was_restored(
        self, used: Installation, restored: ServeProcess, tmp_path: Path
    ) -> None:
        other = used.another(tmp_path, like=restored)
        try:
            other.start()
            other.wait_until_ready()
            with other.client(headers={"Authorization": used.token}) as alice:
                path = f"/api/chat/{used.conversation}"
                asked = alice.post(path, json={"message": "And now?"})
                assert asked.status_code == 200, asked.text
                assert used.provider.requests[-1].api_key == "sk-own"
                assert found(alice, used.base, QUERY)
                added(alice, used.base, "Storks have no voice.")
            other.signed_in("bob").close()
        finally:
            other.kill()

    def test_what_is_there_is_not_replaced_by_accident(
        self, used: Installation, restored: ServeProcess, tmp_path: Path
    ) -> None:
        other = used.another(tmp_path, like=restored)
        # A newer version's, which leans on what the backup holds.
        other.query("CREATE TABLE newer (who BIGINT REFERENCES accounts_user)")
        other.query("UPDATE accounts_user SET username = 'alicia'")
        users = "SELECT username FROM accounts_user"

        refused = other.run("restore", str(used.backup))
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        assert other.query(users) == [("alicia",)]

        done = other.run("restore", str(used.backup), "--force")
        assert done.returncode == 0, done.stderr
        assert other.query(users) == [("alice",)]
        assert "newer" not in rows(other.database_url)

    def test_where_it_fails_everything_is_as_it_was(
        self, used: Installation, restored: ServeProcess, tmp_path: Path
    ) -> None:
        other = used.another(tmp_path, like=restored)
        other.query("DROP TABLE rag_chunk")
        other.query("CREATE TYPE rag_chunk AS (in_the_way text)")
        before = rows(other.database_url)

        done = other.run("restore", str(used.backup), "--force")

        assert done.returncode == 1
        assert "could not be restored" in done.stderr
        assert rows(other.database_url) == before

    def test_where_it_is_interrupted_everything_is_as_it_was(
        self, used: Installation, restored: ServeProcess, tmp_path: Path
    ) -> None:
        other = used.another(tmp_path, like=restored)
        before = rows(other.database_url)
        # It reads the backup up to some rows; then somebody interrupts the command.
        real = shutil.which("pg_restore")
        path = path_with(
            tmp_path / "pg_restore",
            f"""
            case "$*" in *--file=-*) ;; *) exec {real} "$@" ;; esac
            {real} "$@" | sed "/^COPY public.django_session/q"
            kill -TERM $PPID
            exec sleep 60 >&-
            """,
        )

        done = other.run("restore", str(used.backup), "--force", PATH=path)

        assert done.returncode == 143
        assert rows(other.database_url) == before

    def test_one_that_is_told_to_end_leaves_nothing(
        self, used: Installation, tmp_path: Path
    ) -> None:
        # Part of a dump is there; then a timer's time is over.
        path = path_with(tmp_path / "pg_dump", 'kill -TERM "$PPID"\nexec sleep 60')

        done = used.server.run("backup", str(tmp_path / "monday.dump"), PATH=path)

        assert done.returncode == 143
        assert [each.name for each in tmp_path.iterdir()] == ["pg_dump"]

    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
    def test_what_is_no_whole_backup_is_refused(
        self, used: Installation, tmp_path: Path, kept: float
    ) -> None:
        content = used.backup.read_bytes()
        broken = tmp_path / "broken.dump"
        broken.write_bytes(content[: int(kept * len(content))])

        done = used.server.run("restore", str(broken), "--force")

        assert done.returncode == 1
        assert "not a whole backup" in done.stderr
        assert used.server.query("SELECT username FROM accounts_user") == [("alice",)]

    def test_a_dry_run_changes_nothing(self, used: Installation) -> None:
        before = rows(used.server.database_url)

        done = used.server.run("restore", str(used.backup), "--force", "--dry-run")

        assert "can be restored" in done.stdout
        assert rows(used.server.database_url) == before

    def test_what_the_url_asks_for_is_heeded(
        self, used: Installation, tmp_path: Path
    ) -> None:
        name = used.server.database_url.rpartition("/")[2]
        user = f"llmbackend:{postgresql_server.PASSWORD}"
        place = f"host={used.database.directory}&port={used.database.port}"
        url = f"postgresql://{user}@/{name}?{place}"
        secret = {"secret": postgresql_server.JWT_SECRET}
        config: dict[str, Any] = {"database": {"url": url}, "jwt": secret}
        by_socket = ServeProcess(tmp_path, config=config)

        done = by_socket.run("backup", str(tmp_path / "monday.dump"))

        assert done.returncode == 0, done.stderr
        assert postgresql_server.PASSWORD not in done.stdout + done.stderr


def test_doctor_finds_it_sound(used: Installation) -> None:
    done = used.server.run("doctor")

    assert done.returncode == 0, done.stdout
    assert "PostgreSQL is reached and up to date" in done.stdout
    assert "secrets: derived from jwt.secret" in done.stdout
    assert "where the database lies" not in done.stdout
    assert postgresql_server.PASSWORD not in done.stdout + done.stderr


def test_a_damaged_index_is_found_and_mended(used: Installation) -> None:
    chunks = "SELECT ordinal, embedding, terms FROM rag_chunk ORDER BY ordinal"
    before = used.server.query(chunks)
    used.server.query("UPDATE rag_chunk SET terms = '', embedding = '\\x00'")

    refused = used.server.run("check_index")
    mended = used.server.run("check_index", "--repair")

    assert refused.returncode == 1
    assert used.document in refused.stdout
    assert "What could be mended was mended." in mended.stdout, mended.stderr
    assert used.server.query(chunks) == before
    assert used.server.run("check_index").returncode == 0


def test_the_key_that_is_derived_cannot_be_rotated(used: Installation) -> None:
    done = used.server.run("rotate_field_keys")

    assert done.returncode == 1
    assert "derived from jwt.secret" in done.stderr


def test_answers_of_the_dead_are_ended(used: Installation) -> None:
    used.server.query("UPDATE conversations_writer SET heartbeat_at = '2000-01-01'")
    used.server.query(
        "UPDATE conversations_message SET status = 'streaming',"
        " writer_id = (SELECT id FROM conversations_writer LIMIT 1)"
        " WHERE role = 'assistant'"
    )

    assert used.server.run("recover_answers").stdout == "1 answers were ended.\n"

    ended = "SELECT status FROM conversations_message WHERE role = 'assistant'"
    assert used.server.query(ended) == [("interrupted",)]


def test_old_conversations_are_removed(
    used: Installation, restored: ServeProcess, tmp_path: Path
) -> None:
    other = used.another(tmp_path, like=restored)
    other.query("UPDATE conversations_conversation SET updated_at = '2000-01-01'")

    done = other.run("prune_conversations", "--older-than", "90d")

    assert done.stdout == "1 conversations were removed.\n"
    assert other.query("SELECT count(*) FROM conversations_message") == [(0,)]


LATIN1 = "ENCODING LATIN1 LOCALE 'C' TEMPLATE template0"
NO_TABLE = "Unable to create the django_migrations table (permission denied"


@pytest.mark.parametrize(
    ("command", "made", "user", "why"),
    [
        ("serve", LATIN1, "", "its encoding is LATIN1"),
        ("serve", "", "guest", NO_TABLE),
        ("migrate", "", "guest", NO_TABLE),
    ],
)
def test_a_database_that_is_made_otherwise_is_one_line(
    used: Installation, tmp_path: Path, command: str, made: str, user: str, why: str
) -> None:
    url = re.sub(r"[^/]+$", "made_otherwise", used.server.database_url)
    if user:
        url = re.sub(r"//[^@]+@", f"//{user}:{postgresql_server.PASSWORD}@", url)
    secret = {"secret": postgresql_server.JWT_SECRET}
    config: dict[str, Any] = {"database": {"url": url}, "jwt": secret}

    with psycopg.connect(used.database.url("postgres"), autocommit=True) as session:
        session.execute(
            f"CREATE ROLE guest LOGIN PASSWORD '{postgresql_server.PASSWORD}'"
        )
        session.execute(f"CREATE DATABASE made_otherwise {made}")
        try:
            done = ServeProcess(tmp_path, config=config).run(command)
        finally:
            session.execute("DROP DATABASE made_otherwise")
            session.execute("DROP ROLE guest")

    assert done.returncode == 1
    said = done.stderr.removeprefix("CommandError: ")
    assert said.startswith(f"The database cannot be used: {why}")
    assert len(said.splitlines()) == 1
