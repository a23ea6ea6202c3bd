"""Cycles of a kill and a restart, each followed by a comparison with the ledgers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.clients import Account, Client, OverHTTP, OverWebSocket
from benchmarks.chaos.ledger import Fault, faults_in
from benchmarks.chaos.store import PostgreSQL, SQLite, Store, Streaming
from tests.fake_provider import FakeProvider, Request, Script
from tests.served import ServeProcess, fake_section

CLIENTS = 8
KILLED_WITHIN = 3.0
# A second kill hits the recovery from the first.
KILLED_TWICE = 0.25
READY_WITHIN = 5.0
CLOSED_WITHIN = 10.0
BACK_WITHIN = 20.0
PIECE_EVERY = 0.015
LONGEST_ANSWER = 3000
LONGEST_THINKING = 40


def said(question: str) -> str:
    """What the model says to a question, as far as it might ever go on."""
    return "".join(f"{question}/{n} 🦀 e\u0301 想。" for n in range(1000))


def answer(request: Request) -> Script:
    """The fake provider's answer: the beginning of `said`, or what follows it."""
    spoken = [message["content"] for message in request.body["messages"]]
    question, partial = spoken[-1].split("\n\n")[-1], ""
    if not question.startswith("client"):  # It is asked to go on with what it said.
        question, partial = spoken[-3].split("\n\n")[-1], spoken[-2]
    rng = random.Random(f"{question} {len(partial)}")  # noqa: S311
    rest = said(question).removeprefix(partial)[: rng.randint(50, LONGEST_ANSWER)]
    size = rng.randint(5, 40)
    pieces = [rest[start : start + size] for start in range(0, len(rest), size)]
    # A question is stored, and over HTTP not acknowledged yet, while the model thinks.
    thinking = [""] * rng.randint(0, LONGEST_THINKING)
    return Script(pieces=[*thinking, *pieces], pause=PIECE_EVERY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """
    What one kill, or two, came to.

    In seconds: `ready` from the last start until the server can work; from then on
    `closed` until no answer is open that a dead process wrote, `back` until every
    reader had its end; and `lost`, the most of an answer that was not stored. `cut`
    answers were being read at a kill.
    """

    kills: int
    cut: int
    acknowledged: int
    ready: float
    closed: float
    back: float
    lost: float
    faults: tuple[Fault, ...]


class Chaos:
    """A server that is killed again and again, and the clients that come back."""

    def __init__(
        self, folder: Path, provider: FakeProvider, *, seed: int, database_url: str = ""
    ) -> None:
        self._store: Store = SQLite(folder / "served.db")
        if database_url:
            self._store = PostgreSQL(database_url)
        self._server = ServeProcess(
            folder,
            config={
                "providers": fake_section(provider.base_url),
                "chat": {"context_window": 4000},
                **self._store.config,
            },
        )
        self._provider = provider
        self._seed = seed
        self._rng = random.Random(seed)  # noqa: S311
        self._clients: list[Client] = []
        self._log_read = 0

    async def run(self, cycles: int) -> AsyncIterator[Cycle]:
        self._provider.routes["/chat/completions"] = answer
        try:
            await self._start()
            async with self._connected():
                for _ in range(cycles):
                    yield await self._cycle()
        finally:
            await asyncio.to_thread(self._server.kill)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        for number in range(CLIENTS):
            self._clients.append(await asyncio.to_thread(self._client, number))
        tasks = [asyncio.create_task(client.live()) for client in self._clients]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _client(self, number: int) -> Client:
        new = {"title": "Chaos", "model": "gpt-4o"}
        with self._server.signed_in(f"client-{time.time_ns()}") as signed_in:
            made = signed_in.post("/api/conversations/create", json=new)
            token = signed_in.headers["Authorization"].removeprefix("Bearer ")
        conversation = made.raise_for_status().json()["conversation_id"]
        account = Account(self._server.base_url, token, conversation)
        link = OverHTTP(account) if number % 2 else OverWebSocket(account)
        seed = f"{self._seed} {number}"
        return Client(f"client {number}", account, link, seed)

    async def _cycle(self) -> Cycle:
        for client in self._clients:
            client.may_return.set()
            client.may_ask.set()
        kills, cut, faults = 0, 0, list[Fault]()
        while not kills or (kills == 1 and self._rng.random() < KILLED_TWICE):
            await asyncio.sleep(self._rng.uniform(0, KILLED_WITHIN))
            kills, cut = kills + 1, cut + await self._kill()
            ready = await self._start()
            if ready > READY_WITHIN:
                faults.append(Fault("slow start", f"{ready:.1f} s"))
            since = time.monotonic()
            left = await asyncio.to_thread(self._store.streaming)
            for client in self._clients:
                client.may_return.set()
        closed = await self._until_closed(left, since)
        back = await self._until_back(since)
        if closed > CLOSED_WITHIN:
            faults.append(Fault("left streaming", f"{closed:.1f} s"))
        if back > BACK_WITHIN:
            faults.append(Fault("hung", f"{back:.1f} s"))
        lost, found = await asyncio.to_thread(self._compare)
        self._provider.requests.clear()
        return Cycle(
            kills=kills,
            cut=cut,
            acknowledged=sum(len(client.entries) for client in self._clients),
            ready=ready,
            closed=closed,
            back=back,
            lost=lost,
            faults=(*faults, *found),
        )

    async def _kill(self) -> int:
        """Kill the server, all of it; how many answers were being read."""
        cut = 0
        for client in self._clients:
            client.may_ask.clear()
            client.may_return.clear()
        at = time.monotonic()
        await asyncio.to_thread(self._server.kill)
        for client in self._clients:
            if client.open_entry is not None:
                client.open_entry.kills.append(at)
                cut += client.open_entry.acknowledged
        return cut

    async def _start(self) -> float:
        """Start the server; the seconds until it can work."""
        began = time.monotonic()
        self._server.start()
        await asyncio.to_thread(self._server.wait_until_ready)
        return time.monotonic() - began

    async def _until_closed(self, left: Streaming, since: float) -> float:
        """Seconds until none is streaming that a dead process wrote."""
        until = since + 2 * CLOSED_WITHIN
        while left & await asyncio.to_thread(self._store.streaming):
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.1)
        return time.monotonic() - since

    async def _until_back(self, since: float) -> float:
        """Seconds until every client has the end of what it asked."""
        until = since + 2 * BACK_WITHIN
        for client in self._clients:
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await client.idle.wait()
            except TimeoutError:
                return time.monotonic() - since
        ends = [entry.ended_at for client in self._clients for entry in client.entries]
        return max(0.0, max(ends, default=since) - since)

    def _compare(self) -> tuple[float, list[Fault]]:
        """The most that was lost of an answer, in seconds; and all that is wrong."""
        faults, lost = list(self._logged_errors()), 0.0
        if not self._store.is_sound():
            faults.append(Fault("damaged", "the database's integrity check"))
        with self._server.client() as http:
            for client in self._clients:
                messages = history(http, client.account)
                faults += faults_in(client.entries, messages, said=said)
                lost = max(lost, most_lost(client, messages))
                client.settle()
        return lost, faults

    def _logged_errors(self) -> Iterator[Fault]:
        log = self._server.log
        new, self._log_read = log[self._log_read :], len(log)
        for line in new.splitlines():
            if " ERROR " in line or line.startswith("Traceback"):
                yield Fault("logged", line)


def history(http: Any, account: Account) -> list[dict[str, Any]]:
    path = f"/api/conversations/history/{account.conversation}"
    found = http.get(path, headers={"Authorization": f"Bearer {account.token}"})
    return list(found.raise_for_status().json()["messages"])


def most_lost(client: Client, messages: list[dict[str, Any]]) -> float:
    lengths = {m["message_id"]: len(m["content"]) for m in messages}
    lost = [
        entry.seconds_lost(lengths[entry.message_id])
        for entry in client.entries
        if entry.message_id in lengths
    ]
    return max(lost, default=0.0)
