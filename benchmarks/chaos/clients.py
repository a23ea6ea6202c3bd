"""Clients that ask, write down what they are told, and come back after every crash."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from benchmarks.chaos.ledger import Entry, Fault
from benchmarks.events import ACCEPT, Event, events_in

# Not yet: the answer before is still thought to be written, or the server begins anew.
NOT_YET = {"answer_in_progress", "server_restarting", "unavailable"}
GONE = (httpx2.TransportError, ConnectionClosed, InvalidHandshake, OSError)
BEFORE_NEXT_TRY = 0.1
CONTINUES = 0.5


class Refused(Exception):
    """The server answered with an error of its own."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Account:
    """Whose conversation it is, and where."""

    base_url: str
    token: str
    conversation: int


class Link(Protocol):
    """How a client talks: `events` asks, or comes back, and reads to the end."""

    def events(self, entry: Entry) -> AsyncIterator[Event]: ...
    async def close(self) -> None: ...


class OverHTTP:
    """One POST a question, and Last-Event-ID to come back."""

    def __init__(self, account: Account) -> None:
        headers = {"Authorization": f"Bearer {account.token}", **ACCEPT}
        self._client = httpx2.AsyncClient(
            base_url=account.base_url, headers=headers, timeout=30, trust_env=False
        )
        self._chat = f"/api/chat/{account.conversation}"

    async def events(self, entry: Entry) -> AsyncIterator[Event]:
        async with self._request(entry) as response:
            if response.status_code != 200:
                body = await response.aread()
                raise Refused(json.loads(body)["code"] if body else "nothing there")
            async for event in events_in(response.aiter_lines()):
                yield event

    def _request(self, entry: Entry) -> Any:
        if entry.last_id:
            headers = {"Last-Event-ID": entry.last_id}
            return self._client.stream("GET", f"{self._chat}/stream", headers=headers)
        path = self._chat + ("/continue" if entry.deed == "continue" else "")
        headers = {"Idempotency-Key": entry.key}
        return self._client.stream("POST", path, json=body_of(entry), headers=headers)

    async def close(self) -> None:
        await self._client.aclose()


class OverWebSocket:
    """One socket for as long as it lasts, and `resume` to come back."""

    def __init__(self, account: Account) -> None:
        where = account.base_url.removeprefix("http")
        self._url = f"ws{where}/ws/chat/{account.conversation}"
        self._protocols = [Subprotocol("bearer"), Subprotocol(account.token)]
        self._socket: ClientConnection | None = None

    async def events(self, entry: Entry) -> AsyncIterator[Event]:
        try:
            socket = self._socket = self._socket or await self._open()
            await socket.send(json.dumps(frame_of(entry)))
            async for frame in socket:
                told = json.loads(frame)
                name, data = told["event"], told.get("data", {})
                if name == "idle":
                    raise Refused("nothing there")
                if name == "error" and "status" not in data:
                    raise Refused(data["code"])
                yield name, data, told.get("id", "")
                if name in {"done", "error"}:
                    return
            self._socket = None
        except GONE:
            self._socket = None
            raise

    async def _open(self) -> ClientConnection:
        socket = await connect(self._url, subprotocols=self._protocols, proxy=None)
        ready = json.loads(await socket.recv())
        if ready["event"] != "ready":
            raise Refused(ready["data"]["code"])
        return socket

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()


def body_of(entry: Entry) -> dict[str, str]:
    return {} if entry.deed == "continue" else {"message": entry.question}


def frame_of(entry: Entry) -> Mapping[str, str]:
    if entry.last_id:
        return {"type": "resume", "last_event_id": entry.last_id}
    return {"type": entry.deed, **body_of(entry), "idempotency_key": entry.key}


class Client:
    """
    One conversation: a question after the other while `may_ask` is set.

    After a crash it reads on, from `may_return` on; a question that was not
    acknowledged is sent again under its key.
    """

    def __init__(self, name: str, account: Account, link: Link, seed: str) -> None:
        self.name = name
        self.account = account
        self.link = link
        self.entries: list[Entry] = []
        self.may_ask = asyncio.Event()
        self.may_return = asyncio.Event()
        self.idle = asyncio.Event()
        self._rng = random.Random(seed)  # noqa: S311

    @property
    def open_entry(self) -> Entry | None:
        """What it is reading, or waiting for, now."""
        last = self.entries[-1] if self.entries else None
        return last if last is not None and not last.ending else None

    def settle(self) -> None:
        """Everything was compared: what was noted is told once."""
        for entry in self.entries:
            entry.kills.clear()
            entry.faults.clear()

    async def live(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                self.idle.set()
                await self.may_ask.wait()
                self.idle.clear()
                await self._finish(self._next())
        finally:
            await self.link.close()

    def _next(self) -> Entry:
        last = self.entries[-1] if self.entries else None
        key = str(uuid.UUID(int=self._rng.getrandbits(128)))
        interrupted = last is not None and last.ending == "interrupted"
        if last is not None and interrupted and self._rng.random() < CONTINUES:
            last.go_on(key=key)
            return last
        entry = Entry(question=f"{self.name}:{len(self.entries)}", key=key)
        self.entries.append(entry)
        return entry

    async def _finish(self, entry: Entry) -> None:
        while not entry.ending:
            await self.may_return.wait()
            try:
                async with aclosing(self.link.events(entry)) as events:  # type: ignore[type-var]
                    async for name, data, event_id in events:
                        entry.note(name, data, event_id, at=time.monotonic())
            except Refused as refused:
                self._note_refusal(entry, refused.code)
            except GONE:
                pass
            if not entry.ending:
                await asyncio.sleep(BEFORE_NEXT_TRY)
        entry.ended_at = time.monotonic()

    def _note_refusal(self, entry: Entry, code: str) -> None:
        if code in NOT_YET:
            return
        # Sent again under its key: it was stored, and died without a word.
        if code != "interrupted":
            entry.faults.append(Fault("refused", f"{entry.question}: {code}"))
        entry.ending = code
