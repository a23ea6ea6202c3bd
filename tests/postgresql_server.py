"""A real PostgreSQL on a loopback port of its own, with databases made on demand."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from psycopg import sql

from tests.patience import PATIENCE
from tests.ports import free_port

DEBIANS = Path("/usr/lib/postgresql")
CHOICE = "TESTS_DATABASE"
PASSWORD = "canary-postgresql-password"
JWT_SECRET = "made for tests of PostgreSQL, and long enough: 8fK2mQx7"
# A power cut during a test loses nothing that matters.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "lc_messages": "C",
}


class PostgreSQLServer:
    """
    A server that begins empty. `process` is there while it runs, to be killed.

    It also listens on a Unix socket in `directory`.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, *, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self._data = directory / "data"
        self._log = directory / "log"
        self._programs = require_postgresql()

    def start(self) -> None:
        """Return when the server answers."""
        account = _account()
        if account:
            # PostgreSQL refuses to run as root.
            shutil.chown(self.directory, account["user"], account["group"])
        if not self._data.exists():
            self._initialise(account)
        options = [part for item in SETTINGS.items() for part in ("-c", "=".join(item))]
        places = [
            "-D",
            str(self._data),
            "-k",
            str(self.directory),
            "-p",
            f"{self.port}",
        ]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._programs / "postgres", *places, *options],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                **account,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                raise RuntimeError(self._log.read_text())
            time.sleep(0.02)

    def stop(self, sig: signal.Signals = signal.SIGINT) -> None:
        """End the server and its sessions; do nothing if it is not there."""
        if hasattr(self, "process"):
            self.process.send_signal(sig)
            self.process.wait(PATIENCE)

    def url(self, name: str) -> str:
        return url_of(name, port=self.port)

    def _initialise(self, account: Mapping[str, Any]) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        options = ["--username=llmbackend", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run(
            [
                self._programs / "initdb",
                *options,
                # Checked, and cheap: many connections are opened.
                "--auth=password",
                f"--pwfile={secret}",
                "--no-sync",
                str(self._data),
            ],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            **account,
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running(*, port: int = 0) -> Iterator[PostgreSQLServer]:
    with tempfile.TemporaryDirectory(prefix="postgresql-") as directory:
        server = PostgreSQLServer(directory=Path(directory), port=port or free_port())
        server.start()
        try:
            yield server
        finally:
            server.stop()


def url_of(name: str, *, port: int) -> str:
    """Where a database of the server on this port is."""
    return f"postgresql://llmbackend:{PASSWORD}@127.0.0.1:{port}/{name}"


def is_the_runs() -> bool:
    """Whether this test run is on PostgreSQL, by the environment."""
    kind = os.environ.get(CHOICE, "sqlite")
    if kind not in {"sqlite", "postgresql"}:
        raise ValueError(f"{CHOICE}: expected sqlite or postgresql")
    return kind == "postgresql"


def config_for(
    key: object, *, server: PostgreSQLServer | None = None, like: str = ""
) -> dict[str, Any]:
    """
    Sections of config.yaml that lead to the database of `key`'s own, made if need be.

    It is on the run's own server unless another is given, and made empty or as a copy
    of the one at the URL `like`, which nobody may be using.
    """
    url = server.url("postgres") if server else str(settings.CONFIG.database.url)
    name = f"t{hashlib.sha256(str(key).encode()).hexdigest()[:24]}"
    with psycopg.connect(
        re.sub(r"[^/]+$", "postgres", url), autocommit=True
    ) as session:
        known = "SELECT 1 FROM pg_database WHERE datname = %s"
        if session.execute(known, [name]).fetchone() is None:
            template = like.rpartition("/")[2] or "template1"
            session.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
    return {
        "database": {"url": re.sub(r"[^/]+$", name, url)},
        "jwt": {"secret": JWT_SECRET},
    }


def require_postgresql() -> Path:
    """The folder of PostgreSQL's programs, the newest; a test fails without them."""
    in_path = [Path(folder) for folder in os.get_exec_path()]
    debians = sorted(DEBIANS.glob("*/bin"), key=lambda path: float(path.parent.name))
    for folder in [*in_path, *reversed(debians)]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.fail("PostgreSQL is not installed (Debian, Ubuntu: apt install postgresql)")


def _account() -> dict[str, Any]:
    """For subprocess: whom to run the server as, where we are root."""
    if os.geteuid():
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
