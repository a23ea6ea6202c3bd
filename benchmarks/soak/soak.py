"""A soak from its start to its figures."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import body_of
from benchmarks.servers import conversations, sign_in
from benchmarks.soak.readers import (
    Absent,
    KeepingReader,
    Vanishing,
    connections,
    is_exact,
    read,
)
from benchmarks.soak.watched import Holdings, Watched
from benchmarks.speed import percentile
from tests.ports import free_port

PIECES_A_SECOND = 2
SETTLES_AFTER = 30.0
VANISH_AFTER = 10.0
WARMING_UP = "chunks=4 pace=100 batch=1 sealed"
MAY_GROW = 0.10
MAY_DELAY = 0.100
MAY_KEEP = 2
# A reader that takes nothing is dropped after thirty seconds.
REST_WITHIN = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """
    How many readers for how long; `away` of each kind that takes nothing.

    The answer these follow has `large` pieces of 64 KB, four a second: 64 are 4 MB,
    just under what one answer may have, and more than the kernel holds for a reader.
    """

    seconds: float
    streams: int = 300
    away: int = 30
    large: int = 64

    @property
    def order(self) -> str:
        pieces = round(self.seconds * PIECES_A_SECOND)
        return f"chunks={pieces} pace={1000 // PIECES_A_SECOND} batch=1 sealed"

    @property
    def large_order(self) -> str:
        return f"chunks={self.large} pace=250 batch=1 wide=16000 sealed"

    @property
    def settles_after(self) -> float:
        return min(SETTLES_AFTER, self.seconds / 4)

    @property
    def vanish_after(self) -> float:
        return min(VANISH_AFTER, self.seconds / 4)


@dataclass(slots=True)
class Soaked:
    """What came of it, and which promises were not kept."""

    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, *, kept: bool = True) -> None:
        self.figures[name] = value
        if not kept:
            self.broken.append(f"{name} {value}")


@contextmanager
def provider() -> Iterator[int]:
    """A provider in a process of its own; its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.stub", str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


async def soaked(folder: Path, size: Size) -> Soaked:
    """The whole of it, on files in `folder`."""
    with provider() as port:
        watched = Watched(folder, provider_port=port)
        try:
            await asyncio.to_thread(watched.start)
            return await Soak(watched, size).run()
        finally:
            watched.server.kill()


class Soak:
    """One run against a server that is there."""

    def __init__(self, watched: Watched, size: Size) -> None:
        self._watched = watched
        self._size = size
        self._found = Soaked()

    async def run(self) -> Soaked:
        self._target = await sign_in(self._watched.server.base_url, "soak")
        made = await conversations(self._target, self._size.streams + 1)
        steady, large = made[:-1], made[-1]
        # What a first stream makes is there before the count: threads, connections.
        await self._all(steady, WARMING_UP)
        before = await self._watched.at_rest(like=None, patience=30)
        watching = asyncio.create_task(self._watched.watch_memory())
        began = time.monotonic()
        away = asyncio.create_task(self._away(large))
        readers = await self._all(steady, self._size.order)
        large_reader, gone = await away
        watching.cancel()
        self._tell_memory(began + self._size.settles_after)
        self._tell_streams(readers)
        await self._tell_stored([*steady, large], [*readers, large_reader])
        await self._tell_the_absent(gone)
        await self._tell_holdings(before)
        return self._found

    async def _all(self, made: Sequence[int], order: str) -> list[KeepingReader]:
        async def one(place: int, conversation: int) -> KeepingReader:
            # Spread over the time between two pieces, as real streams are.
            await asyncio.sleep(2 * place / len(made))
            return await read(self._target, conversation, order)

        return list(await asyncio.gather(*(one(*each) for each in enumerate(made))))

    async def _away(self, conversation: int) -> tuple[KeepingReader, Absent]:
        """One answer that is read, beside those that stop taking it."""
        reading = asyncio.create_task(
            read(self._target, conversation, self._size.large_order)
        )
        await asyncio.sleep(1)
        path = f"/api/chat/{conversation}/stream?format=sse"
        request = self._target.request("GET", path)
        stalled = connections(self._target, request, self._size.away)
        vanishing = await asyncio.to_thread(
            Vanishing.start, self._target, request, self._size.away
        )
        await asyncio.sleep(self._size.vanish_after)
        vanishing.vanish()
        return await reading, Absent(stalled, vanishing)

    def _tell_memory(self, settled: float) -> None:
        resident = [size for at, size in self._watched.memory if at >= settled]
        growth = max(resident) / resident[0] - 1
        self._found.add("memory_mb", round(resident[0] / 2**20, 1))
        self._found.add("memory_most_mb", round(max(resident) / 2**20, 1))
        self._found.add("growth", round(growth, 4), kept=growth <= MAY_GROW)

    def _tell_streams(self, readers: Sequence[KeepingReader]) -> None:
        delays = [delay for reader in readers for delay in reader.stream.delays]
        exact = sum(
            reader.stream.complete and is_exact(reader.text) for reader in readers
        )
        add, late = self._found.add, percentile(delays, 0.99)
        add("streams", len(readers))
        add("exact", exact, kept=exact == len(readers))
        add("pieces", len(delays))
        add("delay_p50_ms", round(percentile(delays, 0.5) * 1e3, 1))
        add("delay_p99_ms", round(late * 1e3, 1), kept=late <= MAY_DELAY)
        add("delay_most_ms", round(max(delays, default=0) * 1e3, 1))
        lag = self._watched.server.log.count("The event loop was")
        add("lag_warnings", lag)

    async def _tell_stored(
        self, made: Sequence[int], readers: Sequence[KeepingReader]
    ) -> None:
        """Whether the histories say what the readers were told."""
        same = 0
        for conversation, reader in zip(made, readers, strict=True):
            path = f"/api/conversations/history/{conversation}"
            said = (await body_of(self._target, "GET", path, None))["messages"][-1]
            whole = "status" not in said and is_exact(said["content"])
            same += whole and said["content"] == reader.text
        self._found.add("stored_as_told", same, kept=same == len(made))

    async def _tell_the_absent(self, gone: Absent) -> None:
        """How many of those that take nothing were dropped; then they leave."""
        self._found.add("took_nothing", len(gone.ports))
        self._found.add("dropped", len(gone.ports) - self._watched.held(gone.ports))
        gone.leave()

    async def _tell_holdings(self, before: Holdings) -> None:
        after = await self._watched.at_rest(like=before, patience=REST_WITHIN)
        add, more = self._found.add, after.beyond(before)
        add("handles_before", before.handles)
        add("handles_after", after.handles)
        add("tasks_before", before.tasks.total())
        kept = more <= MAY_KEEP
        add("tasks_after", after.tasks.total(), kept=kept)
        if not kept:
            self._found.figures["tasks_more"] = dict(after.tasks - before.tasks)
