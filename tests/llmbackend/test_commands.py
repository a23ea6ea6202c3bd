"""The operator's commands on SQLite; tests/postgresql has those on PostgreSQL."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sqlite3
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from tests import fake_provider, loops
from tests.certificates import self_signed
from tests.fake_provider import FakeProvider, Script, refusal
from tests.patience import PATIENCE
from tests.ports import black_hole, free_port
from tests.served import ON_SQLITE, ROOT, ServeProcess, fake_section, serving


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


class NoTLS(asyncio.Protocol):
    """Answers what is no request of HTTP as most servers do."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class TestDoctor:
    def installation(self, folder: Path, base_url: str) -> ServeProcess:
        server = ServeProcess(
            folder, config={**ON_SQLITE, "providers": fake_section(base_url)}
        )
        server.make_database()
        return server

    def test_a_sound_installation_has_no_error(
        self, tmp_path: Path, provider: FakeProvider
    ) -> None:
        models = Script(body=b'{"data": []}', headers={"Content-Type": "text/json"})
        provider.routes["/models"] = lambda _: models
        server = self.installation(tmp_path, provider.base_url)

        done = server.run("doctor")

        assert done.returncode == 0, done.stdout
        assert "provider fake: reached, and the API key is accepted" in done.stdout
        assert "SQLite is reached and up to date" in done.stdout
        assert provider.requests[-1].api_key == "sk-configured-key"
        assert "sk-configured-key" not in done.stdout + done.stderr

    def test_a_refused_key_is_an_error(
        self, tmp_path: Path, provider: FakeProvider
    ) -> None:
        provider.routes["/models"] = lambda _: refusal(401)
        server = self.installation(tmp_path, provider.base_url)

        done = server.run("doctor")

        assert done.returncode == 1
        assert "ERROR    provider fake: it refuses the API key" in done.stdout

    def test_what_cannot_be_reached_is_named(self, tmp_path: Path) -> None:
        server = ServeProcess(
            tmp_path,
            config={
                **ON_SQLITE,
                "providers": fake_section("http://127.0.0.1:9/v1"),
                "redis": {"address": "127.0.0.1:9"},
            },
        )

        done = server.run("doctor")

        assert done.returncode == 1
        assert "provider fake: it cannot be reached: nothing listens" in done.stdout
        assert "redis: 127.0.0.1:9 cannot be reached" in done.stdout
        assert "run manage.py migrate" in done.stdout

    def test_why_it_cannot_be_reached_is_told(self, tmp_path: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self_signed(tmp_path))
        with (
            loops.running("plain") as loop,
            fake_provider.running(tls=context) as untrusted,
            black_hole() as silent,
        ):
            listening = loop.asyncio.create_server(NoTLS, "127.0.0.1", 0)
            plain = f"https://{loop.listen(listening)}/v1"
            providers = [
                {**fake_section(plain)[0], "name": "plain"},
                {**fake_section(untrusted.base_url)[0], "name": "untrusted"},
                {**fake_section(f"http://{silent}/v1")[0], "name": "silent"},
            ]
            server = ServeProcess(
                tmp_path, config={**ON_SQLITE, "providers": providers}
            )

            done = server.run("doctor")

        reasons = {
            "plain": "no TLS is spoken there",
            "untrusted": "its certificate is not trusted",
            "silent": "no connection was made in time",
        }
        for name, why in reasons.items():
            assert f"provider {name}: it cannot be reached: {why}" in done.stdout


def test_an_empty_variable_names_no_configuration() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "LLMBACKEND_CONFIG": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


class TestRotation:
    def test_two_runs_and_a_restart_replace_the_key(self, tmp_path: Path) -> None:
        with fake_provider.running() as provider:
            config = fake_section(provider.base_url)
            with serving(tmp_path, providers=config, **ON_SQLITE) as server:
                new = {"title": "Mine", "model": "gpt-4o", "api_key": "sk-own"}
                alice = server.signed_in()
                made = alice.post("/api/conversations/create", json=new).json()
                keys = Path(f"{server.database}.keys")
                first = json.loads(keys.read_text())["field"]
                assert (
                    "would be added"
                    in server.run("rotate_field_keys", "--dry-run").stdout
                )
                assert "Restart every server" in server.run("rotate_field_keys").stdout
            both = json.loads(keys.read_text())["field"]
            server.start()
            server.wait_until_ready()
            done = server.run("rotate_field_keys")
            last = json.loads(keys.read_text())["field"]
            asked = alice.post(
                f"/api/chat/{made['conversation_id']}", json={"message": "Hi"}
            )
            server.kill()

            assert "1 stored API keys were sealed anew" in done.stdout
            assert both[1:] == first
            assert last == both[:1]
            assert stat.S_IMODE(keys.stat().st_mode) == 0o600
            assert asked.status_code == 200
            assert provider.requests[-1].api_key == "sk-own"


def test_a_generated_secret_is_long_and_new(tmp_path: Path) -> None:
    here = StringIO()
    call_command("generate_secret", stdout=here)
    elsewhere = ServeProcess(tmp_path, config=ON_SQLITE).run("generate_secret").stdout
    secrets = {here.getvalue().strip(), elsewhere.strip()}

    assert len(secrets) == 2
    assert all(len(secret) >= 64 for secret in secrets)


@pytest.mark.parametrize("command", ["recover_answers", "delete_user ann"])
def test_where_nothing_is_migrated_it_is_said_what_to_do(
    tmp_path: Path, command: str
) -> None:
    done = ServeProcess(tmp_path, config={}).run(*command.split())

    assert done.returncode == 1
    assert "Run `manage.py migrate` first" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "migrate", "delete_user ann"])
def test_a_database_that_cannot_be_used_is_one_line(
    tmp_path: Path, command: str
) -> None:
    server = ServeProcess(tmp_path, config=ON_SQLITE)
    server.database.write_bytes(b"no database" * 1000)

    done = server.run(*command.split())

    said = "The database cannot be used: file is not a database\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_database_that_is_not_reached_is_one_line(tmp_path: Path) -> None:
    url = f"postgresql://u:secret@127.0.0.1:{free_port()}/x?typo=1"
    config = {"database": {"url": url}, "jwt": {"secret": "x" * 32}}

    done = ServeProcess(tmp_path, config=config).run("serve")

    said = 'The database cannot be used: invalid connection option "typo"\n'
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("command", ["serve", "create_demo"])
def test_a_database_that_is_anothers_is_one_line(tmp_path: Path, command: str) -> None:
    server = ServeProcess(tmp_path, config=ON_SQLITE)
    server.manage("generate_secret")  # Which makes the secrets that are kept beside it.
    server.make_database()
    server.database.chmod(0o444)

    done, looked = (
        subprocess.run(
            [sys.executable, "manage.py", asked],
            cwd=ROOT,
            env=server.environment,
            preexec_fn=heed_permissions,
            capture_output=True,
            text=True,
            check=False,
        )
        for asked in (command, "doctor")
    )

    why = f"{server.database} is not this user's to write to\n"
    assert done.returncode == 1
    assert done.stderr.removeprefix("CommandError: ") == (
        f"The database cannot be used: {why}"
    )
    assert f"ERROR    database: {why}" in looked.stdout


def heed_permissions() -> None:
    """What root does not do, unless it gives up this for the program it becomes."""
    drop_from_bounding_set, may_override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, may_override, 0, 0, 0)


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, config={})
    server.make_database()

    for asked in (["delete_user"], ["create_demo", "--user"]):
        done = server.run(*asked, os.fsdecode(b"\xff"))

        assert done.returncode == 1
        assert done.stderr == "An argument is not text in UTF-8.\n"


def test_what_a_terminal_cannot_show_ends_no_command_half_way(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, config=ON_SQLITE)
    server.make_database()

    made = server.run("create_demo", "--user", "王😀", PYTHONIOENCODING="ascii")
    closed = f"exec {sys.executable} manage.py delete_user 王😀 >&- 2>&-"
    gone = subprocess.run(
        ["sh", "-c", closed], cwd=ROOT, env=server.environment, check=False
    )

    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("username: \\u738b\\U0001f600\npassword: ")
    assert gone.returncode == 0
    assert server.query("SELECT count(*) FROM accounts_user") == [(0,)]


class TestBackups:
    def test_a_backup_made_while_serving_restores_everything(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        backup = tmp_path / "monday.db"
        config: dict[str, Any] = {
            **ON_SQLITE,
            "providers": fake_section("http://127.0.0.1:9/v1"),
        }
        body = {"title": "Mine", "model": "gpt-4o", "api_key": "sk-own"}
        with serving(tmp_path / "old", **config) as server:
            with server.signed_in() as alice:
                alice.post("/api/conversations/create", json=body).raise_for_status()
            done = server.run("backup", str(backup))
            assert done.returncode == 0, done.stderr
        other = ServeProcess(tmp_path / "new", config=config)
        assert other.run("doctor").returncode == 1
        looked = other.run("restore", str(backup), "--dry-run")
        assert (looked.returncode, other.database.exists()) == (0, False)
        secrets = Path(f"{backup}.keys")
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o600

        restored = other.run("restore", str(backup))

        assert restored.returncode == 0, restored.stderr
        assert other.query("SELECT title FROM conversations_conversation")
        kept = Path(f"{other.database}.keys")
        assert kept.read_bytes() == secrets.read_bytes()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert not list(other.database.parent.glob("*.before-restore*"))

    def test_a_token_of_who_came_since_is_no_token_of_who_comes_next(
        self, tmp_path: Path
    ) -> None:
        backup = tmp_path / "monday.db"
        with serving(tmp_path, **ON_SQLITE) as server:
            assert server.run("backup", str(backup)).returncode == 0
            with server.signed_in("bob") as bob:
                number = bob.get("/api/users/me").json()["user_id"]
                token = bob.headers["Authorization"]
            server.kill()
            assert server.run("restore", str(backup), "--force").returncode == 0
            server.start()
            server.wait_until_ready()

            with server.signed_in("carol") as carol:
                assert carol.get("/api/users/me").json()["user_id"] == number
            with server.client(headers={"Authorization": token}) as bob:
                assert bob.get("/api/users/me").status_code == 401

    def test_a_large_one_ends_beside_a_server_that_never_stops_writing(
        self, tmp_path: Path
    ) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.make_database()
        backup, written = tmp_path / "monday.db", 0
        with closing(sqlite3.connect(server.database, isolation_level=None)) as rows:
            rows.execute("PRAGMA journal_mode=WAL")
            rows.execute("CREATE TABLE filler (content BLOB)")
            rows.execute("INSERT INTO filler VALUES (zeroblob(?))", [48 << 20])

            server.start(str(backup), command="backup")
            give_up = time.monotonic() + PATIENCE
            while server.process.poll() is None and time.monotonic() < give_up:
                rows.execute("INSERT INTO filler VALUES ('later')")
                written += 1
        server.kill()

        assert server.process.returncode == 0
        assert written
        with closing(sqlite3.connect(backup)) as copy:
            (size,) = copy.execute("SELECT MAX(LENGTH(content)) FROM filler").fetchone()
        assert size == 48 << 20

    def test_users_are_not_replaced_by_accident(self, tmp_path: Path) -> None:
        backup = tmp_path / "monday.db"
        with serving(tmp_path, **ON_SQLITE) as server:
            server.signed_in("alice").close()
            server.run("backup", str(backup))
            server.signed_in("bob").close()

        refused = server.run("restore", str(backup))
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        assert server.query("SELECT COUNT(*) FROM accounts_user") == [(2,)]

        assert server.run("restore", str(backup), "--force").returncode == 0
        assert server.query("SELECT COUNT(*) FROM accounts_user") == [(1,)]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_nothing_is_restored_beside_a_server(
        self, tmp_path: Path, workers: int
    ) -> None:
        backup = tmp_path / "monday.db"
        idle = {"path": "served.db", "max_open_conns": 3, "max_idle_conns": 0}
        config = {**ON_SQLITE, "server": {"workers": workers}, "sqlite": idle}
        with serving(tmp_path, **config) as server:
            server.signed_in("alice").close()
            server.manage("backup", str(backup))
            inode = server.database.stat().st_ino

            done = server.run("restore", str(backup), "--force")

            assert done.returncode == 1
            assert done.stderr.splitlines() == [
                f"CommandError: {server.database}: another process uses it; "
                "stop the server first."
            ]
            server.signed_in("bob").close()
            assert server.database.stat().st_ino == inode
        assert server.query("SELECT COUNT(*) FROM accounts_user") == [(2,)]
        left = {each.name for each in tmp_path.iterdir() if "restore" in each.name}
        assert not left

    def test_what_is_replaced_keeps_its_owner(self, tmp_path: Path) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.make_database()
        backup, keys = tmp_path / "monday.db", Path(f"{server.database}.keys")
        server.manage("backup", str(backup))
        # Who is not root may give a file to another of their groups alone.
        root = os.geteuid() == 0
        owner = (12345, 54321) if root else (os.getuid(), os.getgroups()[-1])
        for each in (server.database, keys):
            os.chown(each, *owner)

        server.manage("rotate_field_keys")
        rotated = keys.stat()
        server.manage("restore", str(backup))

        for found in (rotated, keys.stat(), server.database.stat()):
            assert (found.st_uid, found.st_gid) == owner
            assert stat.S_IMODE(found.st_mode) == 0o600

    def test_what_was_there_is_kept_whole_and_can_be_restored(
        self, tmp_path: Path
    ) -> None:
        # Of other secrets than those of the server, and of a name that is no URL's.
        backup = tmp_path / "50% of #1?.db"
        (tmp_path / "elsewhere").mkdir()
        other = ServeProcess(tmp_path / "elsewhere", config=ON_SQLITE)
        other.make_database()
        assert other.run("backup", str(backup)).returncode == 0
        with serving(tmp_path, **ON_SQLITE) as server:
            server.signed_in("alice").close()
            server.kill()
        secrets = Path(f"{server.database}.keys").read_bytes()
        kept = Path(f"{server.database}.before-restore")

        done = server.run("restore", str(backup), "--force")

        assert done.returncode == 0, done.stderr
        assert server.query("SELECT COUNT(*) FROM accounts_user") == [(0,)]
        assert stat.S_IMODE(server.database.stat().st_mode) == 0o600
        undone = server.run("restore", str(kept), "--force")
        assert undone.returncode == 0, undone.stderr
        assert server.query("SELECT username FROM accounts_user") == [("alice",)]
        assert Path(f"{server.database}.keys").read_bytes() == secrets

    def test_what_is_no_backup_is_refused(self, tmp_path: Path) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        broken = tmp_path / "broken.db"
        broken.write_bytes(b"SQLite format 3\x00" + b"x" * 4096)

        done = server.run("restore", str(broken))

        assert done.returncode == 1
        assert "not a whole backup" in done.stderr

    def test_secrets_that_are_damaged_are_refused(self, tmp_path: Path) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.make_database()
        backup = tmp_path / "monday.db"
        server.manage("backup", str(backup))
        secrets, kept = Path(f"{backup}.keys"), Path(f"{server.database}.keys")
        before = kept.read_bytes()
        secrets.write_bytes(before[:99])

        for asked in (["--dry-run"], ["--force"]):
            done = server.run("restore", str(backup), *asked)

            assert done.returncode == 1
            assert f"{secrets}: not a complete key file." in done.stderr
        assert kept.read_bytes() == before
        assert not list(tmp_path.glob("*.before-restore*"))

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.make_database()
        there = tmp_path / "there"
        there.write_text("precious")

        assert server.run("backup", str(there)).returncode == 1
        assert there.read_text() == "precious"

    def test_no_database_has_no_backup(self, tmp_path: Path) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)

        done = server.run("backup", str(tmp_path / "monday.db"))

        assert done.returncode == 1
        assert "there is no such database" in done.stderr
        assert not (tmp_path / "monday.db").exists()

    @pytest.mark.parametrize("name", ["/proc/monday.db", "m" * 252, "m" * 300])
    def test_a_file_that_cannot_be_written_is_one_line(
        self, tmp_path: Path, name: str
    ) -> None:
        """Where no files are made, and of names that are, or whose draft's is, long."""
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.make_database()
        there = tmp_path / name
        server.manage("create_demo", "--user", "ann")

        for asked in (["backup", str(there)], ["export_user", "ann", str(there)]):
            done = server.run(*asked)

            assert done.returncode == 1
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"CommandError: {there}: cannot be written: ")
        assert not list(tmp_path.glob(".m*"))

    def test_a_database_that_cannot_be_read_is_one_line(self, tmp_path: Path) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.database.write_bytes(b"no database " * 1000)

        done = server.run("backup", str(tmp_path / "monday.db"))

        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"CommandError: {server.database}: cannot be copied: "
            "file is not a database."
        ]
        assert not list(tmp_path.glob("*monday*"))

    def test_secrets_of_a_backup_that_is_gone_are_replaced(
        self, tmp_path: Path
    ) -> None:
        server = ServeProcess(tmp_path, config=ON_SQLITE)
        server.make_database()
        left = tmp_path / "monday.db.keys"
        left.write_text("longer than what comes in its place " * 20)
        left.chmod(0o644)

        assert server.run("backup", str(tmp_path / "monday.db")).returncode == 0

        kept = Path(f"{server.database}.keys")
        assert left.read_bytes() == kept.read_bytes()
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
