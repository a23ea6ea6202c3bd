"""A real Redis on a loopback port of its own, which tests may stop, freeze and kill."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port


class RedisServer:
    """
    A redis-server that keeps nothing: each start() begins empty, at the same address.

    `process` is the running server, for a test to freeze (SIGSTOP) or kill.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, *, directory: Path, password: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.password = password
        self._directory = directory

    def start(self) -> None:
        """Return when the server answers; do nothing if it already runs."""
        if self.is_running():
            return
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", *self._options()], stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline or not self.is_running():
                self.stop()
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server at once, even a frozen one; do nothing if it is not there."""
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()

    def is_running(self) -> bool:
        return hasattr(self, "process") and self.process.poll() is None

    def _options(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._directory),
            "save": "",
            "appendonly": "no",
            "requirepass": self.password,
        }
        return [
            part for name, value in options.items() for part in (f"--{name}", value)
        ]

    def _answers(self) -> bool:
        if not self.is_running():
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def running(*, password: str = "") -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(directory=Path(directory), password=password)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def available() -> bool:
    return shutil.which("redis-server") is not None


def require_redis() -> None:
    """Skip the test where there is no Redis to start; in CI that is a failure."""
    if available():
        return
    reason = "redis-server is not installed (Debian, Ubuntu: apt install redis-server)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
