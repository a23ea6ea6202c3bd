"""The server of a soak, seen from outside: its memory, its handles, its tasks."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.soak.census import SAYS
from tests.served import ServeProcess

EVERY = 0.5


class CountedServer(ServeProcess):
    """A server that tells how many tasks it has."""

    program = ("-m", "benchmarks.soak.census")


@dataclass(frozen=True, slots=True)
class Holdings:
    """
    What a server holds: file handles, but for its provider's and its database's, and
    tasks by name.
    """

    handles: int
    tasks: Counter[str]

    def beyond(self, other: Holdings) -> int:
        """How many more than `other` of either."""
        more = self.tasks - other.tasks
        return max(self.handles - other.handles, sum(more.values()))


class Watched:
    """One server process; its provider listens on `provider_port`."""

    def __init__(self, folder: Path, *, provider_port: int) -> None:
        provider = {
            "name": "stub",
            "base_url": f"http://127.0.0.1:{provider_port}/v1",
            "api_key": "sk-none",
            "chat_models": ["gpt-stub"],
        }
        self.server = CountedServer(folder, config={"providers": [provider]})
        self._provider_port = provider_port
        self.memory: list[tuple[float, int]] = []

    def start(self) -> None:
        self.server.start()
        self.server.wait_until_ready()
        self._process = psutil.Process(self.server.process.pid)

    def peers(self) -> list[int]:
        """The ports at the other ends of its connections."""
        found = self._process.net_connections("tcp")
        return [each.raddr.port for each in found if each.raddr]

    def held(self, ports: AbstractSet[int]) -> int:
        """How many connections it still has with `ports`."""
        return sum(port in ports for port in self.peers())

    async def watch_memory(self) -> None:
        """Note (time, resident bytes) until it is cancelled."""
        while True:
            self.memory.append((time.monotonic(), self._process.memory_info().rss))
            await asyncio.sleep(EVERY)

    async def holdings(self) -> Holdings:
        # A connection to the provider is kept for a minute for the next question, and
        # some to the database for good: how many depends on what came at once.
        files = [Path(each.path).name for each in self._process.open_files()]
        kept = self.peers().count(self._provider_port)
        kept += sum(name.partition("-")[0].endswith(".db") for name in files)
        tasks = await self._tasks()
        return Holdings(self._process.num_fds() - kept, tasks)

    async def _tasks(self) -> Counter[str]:
        told = self.server.log.count(SAYS)
        self._process.send_signal(signal.SIGUSR1)
        await asyncio.to_thread(
            self.server.wait_for, lambda: self.server.log.count(SAYS) > told
        )
        last = self.server.log.rpartition(SAYS)[2]
        return Counter(json.loads(last.partition("\n")[0]))

    async def at_rest(self, *, like: Holdings | None, patience: float) -> Holdings:
        """Wait until it holds no more than `like`, or the same as a moment ago."""
        until = time.monotonic() + patience
        before = await self.holdings()
        while time.monotonic() < until:
            await asyncio.sleep(1)
            now = await self.holdings()
            if now.beyond(like or before) <= 0:
                return now
            before = now
        return before
