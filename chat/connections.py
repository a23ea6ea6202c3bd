"""Open streams: whose they are, so that those of an ended token can be ended."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from django.db import DatabaseError, InterfaceError

from accounts.tokens import Claims, ended_claims
from llmbackend import metrics
from llmbackend.errors import LLMBackendError, Unauthorized
from llmbackend.threads import DatabaseThreads

logger = logging.getLogger(__name__)

# Two looks and a slow database are well under a minute.
LOOK_EVERY = 20.0
SIGN_IN_SECONDS = 5.0


class Connection(Protocol):
    """A stream that can be ended from outside."""

    def cut(self, error: LLMBackendError) -> None: ...


class Connections:
    """Every open stream of a process; belongs to one event loop."""

    def __init__(self, threads: DatabaseThreads) -> None:
        self.look_every = LOOK_EVERY
        self.sign_in_seconds = SIGN_IN_SECONDS
        self._threads = threads
        self._open: dict[Connection, Claims] = {}

    def add(self, connection: Connection, claims: Claims) -> None:
        self._open[connection] = claims
        metrics.streams_open(len(self._open))

    def remove(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        metrics.streams_open(len(self._open))

    def __len__(self) -> int:
        return len(self._open)

    async def watch_forever(self) -> None:
        """End the streams whose token was ended, by log-out, deactivation or time."""
        while True:
            await asyncio.sleep(self.look_every)
            try:
                await self.end_the_ended()
            except (DatabaseError, InterfaceError) as exc:
                logger.warning("Open streams were not checked (%s)", type(exc).__name__)

    async def end_the_ended(self) -> None:
        held = set(self._open.values())
        if not held:
            return
        ended = await self._threads.run(ended_claims, held)
        for connection, claims in list(self._open.items()):
            if claims in ended:
                connection.cut(Unauthorized("This sign-in has ended."))
