"""The real `manage.py serve`, in a process of its own on files of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import yaml

from tests import postgresql_server
from tests.patience import PATIENCE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
# Of config.yaml, for what is about SQLite, whatever the test run is on.
ON_SQLITE: dict[str, Any] = {"database": {"url": ""}, "jwt": {"secret": ""}}


class ServeProcess:
    """
    A server on a free loopback port; `config` is laid over what a test needs anyway.

    Its database is that of its directory: an SQLite file or, where this test run is on
    PostgreSQL, one of the run's server. An SQLite file that is not there when it is
    started is copied from one that is migrated, but with `from_nothing`. What it prints
    goes to `stdout` and `log` (standard error) in its directory.
    """

    program: Sequence[str] = (str(ROOT / "manage.py"),)

    def __init__(
        self, directory: Path, *, config: dict[str, Any], from_nothing: bool = False
    ) -> None:
        self.port = int(config.get("server", {}).get("port") or free_port())
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.database = directory / "served.db"
        self.directory = directory
        self.config_file = self._file("config.yaml")
        merged = self._merged(config)
        self.database_url = merged.get("database", {}).get("url", "")
        self.config_file.write_text(yaml.safe_dump(merged))
        self._from_nothing = from_nothing

    def _merged(self, config: dict[str, Any]) -> dict[str, Any]:
        needed: dict[str, Any] = {
            "server": {"port": self.port, "shutdown_grace": 1},
            "sqlite": {"path": self.database.name},
            "accounts": {"bcrypt_cost": 4},
            "local": {"enabled": False},
        }
        if postgresql_server.is_the_runs():
            needed |= postgresql_server.config_for(self.directory)
        for section, values in config.items():
            is_section = isinstance(values, dict)
            needed[section] = (
                {**needed.get(section, {}), **values} if is_section else values
            )
        return needed

    @property
    def kind(self) -> str:
        """Of its database: `SQLite` or `PostgreSQL`."""
        return "PostgreSQL" if self.database_url else "SQLite"

    @property
    def environment(self) -> dict[str, str]:
        outer = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        return {**outer, "LLMBACKEND_CONFIG": str(self.config_file)}

    def start(
        self, *options: str, command: str = "serve", folder: Path | None = None
    ) -> None:
        """Start the server, in its own folder or another, and return at once."""
        environment = self.environment
        if folder is not None:
            relative = os.path.relpath(self.config_file, folder)
            environment["LLMBACKEND_CONFIG"] = relative
        if not (self._from_nothing or self.database_url):
            self.make_database()
        with (
            self._file("stdout").open("ab") as out,
            self._file("log").open("ab") as log,
        ):
            self.process = subprocess.Popen(
                [sys.executable, *self.program, command, *options],
                cwd=folder or ROOT,
                env=environment,
                stdout=out,
                stderr=log,
            )

    def make_database(self) -> None:
        """Have a database there that is migrated; do nothing to one that is."""
        if self.database_url:
            self.manage("migrate")
        elif not self.database.exists():
            shutil.copyfile(migrated(), self.database)

    def run(
        self, *command: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run another management command on the same files, however it ends."""
        return subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    def manage(self, *command: str, **environment: str) -> str:
        """Run another management command on the same files; returns its output."""
        done = self.run(*command, **environment)
        done.check_returncode()
        return done.stdout

    def query(self, statement: str) -> list[Any]:
        """What a statement returns on the server's own database, and commits."""
        session: Any
        if self.database_url:
            session = psycopg.connect(self.database_url)
        else:
            session = sqlite3.connect(self.database, timeout=PATIENCE)
        with contextlib.closing(session), session:
            cursor = session.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def wait_until_ready(self) -> None:
        self.wait_for(self.is_ready)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Poll `condition`; fail with the server's log when it does not come true."""
        until = time.monotonic() + 2 * PATIENCE
        while not condition():
            if time.monotonic() > until or self.process.poll() is not None:
                raise AssertionError(f"{self.stdout}\n{self.log}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        try:
            with self.client(timeout=5) as client:
                return client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def client(self, **options: Any) -> httpx2.Client:
        settings = {
            "base_url": self.base_url,
            "timeout": PATIENCE,
            "trust_env": False,
            # Loading certificates costs more than the request.
            "verify": False,
            # The server drops a connection that is idle for longer.
            "limits": httpx2.Limits(keepalive_expiry=2),
        }
        return httpx2.Client(**{**settings, **options})

    def signed_in(self, name: str = "alice") -> httpx2.Client:
        """A client with the token of a user that is registered now."""
        who = {"username": name, "password": "correct horse battery"}
        with self.client() as client:
            client.post("/api/users/register", json=who).raise_for_status()
            token = client.post("/api/users/login", json=who).json()["token"]
        return self.client(headers={"Authorization": f"Bearer {token}"})

    def workers(self) -> list[psutil.Process]:
        """The processes the server started."""
        found: list[psutil.Process] = psutil.Process(self.process.pid).children()
        return found

    def terminate(self, sig: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(sig)

    def wait(self, seconds: float) -> int:
        """The exit code, which must come within `seconds`."""
        return self.process.wait(seconds)

    @property
    def stdout(self) -> str:
        return self._file("stdout").read_text()

    @property
    def log(self) -> str:
        return self._file("log").read_text()

    def _file(self, name: str) -> Path:
        return self.directory / f"{self.port}-{name}"

    def kill(self) -> None:
        """End the server and its children at once."""
        if not hasattr(self, "process") or self.process.poll() is not None:
            return
        tree = psutil.Process(self.process.pid).children(recursive=True)
        for child in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait()


@functools.cache
def migrated() -> Path:
    """An SQLite file as `migrate` leaves it: a second less for each that copies it."""
    folder = Path(tempfile.mkdtemp(prefix="llmbackend-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = ServeProcess(folder, config=ON_SQLITE)
    made.manage("migrate")
    with contextlib.closing(sqlite3.connect(made.database)) as session:
        # What a copy of the file alone would lack.
        session.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made.database


@contextlib.contextmanager
def serving(
    directory: Path,
    *options: str,
    command: str = "serve",
    from_nothing: bool = False,
    **config: Any,
) -> Iterator[ServeProcess]:
    """A server that is ready; `config` holds sections of config.yaml."""
    server = ServeProcess(directory, config=config, from_nothing=from_nothing)
    try:
        server.start(*options, command=command)
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


def fake_section(base_url: str) -> list[dict[str, Any]]:
    """The `providers` section that leads `gpt*` to a fake provider."""
    return [
        {
            "name": "fake",
            "base_url": base_url,
            "api_key": "sk-configured-key",
            "chat_models": ["gpt*"],
        }
    ]
