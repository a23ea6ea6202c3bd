"""A server to be measured, and what a benchmark needs there first."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks.load import Target, body_of, gathered

ROOT = Path(__file__).resolve().parent.parent
STUB_PORT = 18081
PASSWORD = "a long password"  # noqa: S105


@dataclass
class Server:
    """The server under test and, where it is ours, how it was started."""

    base_url: str
    process: psutil.Process

    def cpu(self) -> float:
        """Seconds that all its processes have taken so far."""
        times = [each.cpu_times() for each in self._tree()]
        return float(sum(each.user + each.system for each in times))

    def memory(self) -> int:
        """Bytes resident, over all its processes."""
        return sum(each.memory_info().rss for each in self._tree())

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def started(
    arguments: Sequence[str], *, log: Path | None = None
) -> Iterator[psutil.Process]:
    """A Python process, which is ended afterwards; what it says is in `log`."""
    with (log or Path(os.devnull)).open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=said, stderr=said
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def own_server(folder: str, *, workers: int = 1) -> Iterator[Server]:
    """`manage.py serve` on files in `folder`."""
    config = {
        "server": {"port": 18080, "workers": workers, "shutdown_grace": 1},
        "sqlite": {"path": "benchmark.db"},
        "local": {"enabled": False},
        "providers": [
            {
                "name": "stub",
                "base_url": f"http://127.0.0.1:{STUB_PORT}/v1",
                "api_key": "sk-none",
                "chat_models": ["gpt-stub"],
            }
        ],
    }
    path = Path(folder, "config.yaml")
    path.write_text(yaml.safe_dump(config))
    os.environ["LLMBACKEND_CONFIG"] = str(path)
    base_url = "http://127.0.0.1:18080"
    log = Path(folder, "server.log")
    with started(["manage.py", "serve"], log=log) as process:
        if not asyncio.run(is_ready(Target(base_url, ""), process)):
            raise SystemExit(f"The server did not start.\n{log.read_text()}")
        yield Server(base_url, process)


async def is_ready(target: Target, process: psutil.Process) -> bool:
    """Wait for the first answer; False when the process has ended without one."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            await body_of(target, "GET", "/healthz", None)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            return True
    return False


async def sign_in(base_url: str, user: str) -> Target:
    """A new user, signed in."""
    anonymous = Target(base_url, "")
    who = {"username": user, "password": PASSWORD}
    await body_of(anonymous, "POST", "/api/users/register", who)
    answer = await body_of(anonymous, "POST", "/api/users/login", who)
    return Target(base_url, answer["token"])


async def conversations(target: Target, count: int) -> list[int]:
    """So many new ones; their ids."""
    new = {"title": "Benchmark", "model": "gpt-stub"}
    path = "/api/conversations/create"
    made = [body_of(target, "POST", path, new) for _ in range(count)]
    return [each["conversation_id"] for each in await gathered(made, at_once=16)]
