"""
The ASGI application: streaming paths -> consumers, everything else -> Django.

One object owns what a serving process holds (threads, provider clients, answers) from
`startup` to `shutdown`. uvicorn calls them by the lifespan protocol; under daphne,
which has none, the first request starts and a reactor trigger stops.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmbackend.settings")
# Two BLAS threads on busy cores spin against each other; must precede numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A thread that computes gives way to the event loop ten times sooner.
sys.setswitchinterval(0.0005)

import django

django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.db import connection
from django.urls import re_path

from chat.answers import Answers
from chat.routing import socket_routes, streaming_routes
from llmbackend.commits import Commits
from llmbackend.config import Config
from llmbackend.connected import Providers
from llmbackend.guard import BodyLimit, Guard
from llmbackend.lag import LoopLag
from llmbackend.rest import RestApplication
from llmbackend.routes import Routes
from llmbackend.threads import DatabaseThreads
from rag.retrieval import Knowledge

PASSWORD_REQUESTS = (
    "POST /api/users/register",
    "POST /api/users/login",
    "POST /api/users/password",
    "DELETE /api/users/me",
    "POST /admin/login",
    "POST /admin/password_change",
)
# Which write a row or two, and are many.
SMALL_WRITES = ("POST /api/conversations/create",)
SLOW_PATHS = (
    "/api/rag/doc/upload",
    "/api/conversations/import",
    "/admin/providers",
)
QUESTION_LIMIT = BodyLimit(paths=re.compile("/api/(chat/|rag/chat)"), limit=256 << 10)
IMPORT_LIMIT = BodyLimit(paths=re.compile("/api/conversations/import"), limit=32 << 20)
MULTIPART_OVERHEAD = 1 << 20
# What waits for PostgreSQL lets another compute; in SQLite it computes itself.
SHORT_JOBS = {"sqlite": 1, "postgresql": 4}


class Application:
    """What a serving process is made of."""

    def __init__(self) -> None:
        config = settings.CONFIG
        size, hashing = pool_sizes(
            config.sqlite.max_open_conns, cores=os.cpu_count() or 1
        )
        idle = config.sqlite.max_idle_conns
        self.threads = DatabaseThreads(
            name="database", size=size, at_once=SHORT_JOBS[connection.vendor], idle=idle
        )
        self.password_threads = DatabaseThreads(
            name="password", size=hashing, at_once=hashing, idle=0
        )
        self.providers = Providers(config)
        self.knowledge = Knowledge(self.providers, config=config)
        commits = Commits(self.threads)
        self.answers = Answers(
            threads=self.threads,
            commits=commits,
            providers=self.providers,
            knowledge=self.knowledge,
        )
        self.lag = LoopLag()
        self._starting: asyncio.Task[None] | None = None
        rest = RestApplication(
            threads=self.threads,
            password_threads=self.password_threads,
            password_requests=PASSWORD_REQUESTS,
            passwords_at_once=hashing,
            commits=commits,
            small_writes=SMALL_WRITES,
            slow_paths=SLOW_PATHS,
            slow_at_once=max(1, size // 2),
        )
        streams = streaming_routes(self.answers)
        routes = [*streams, re_path(r"", rest)]  # type: ignore[arg-type]
        sockets = [*socket_routes(self.answers), re_path(r"", refuse)]  # type: ignore[arg-type]
        self._guarded = Guard(
            ProtocolTypeRouter(
                {"http": URLRouter(routes), "websocket": URLRouter(sockets)}
            ),
            server=config.server,
            hosts=config.allowed_hosts,
            limits=(QUESTION_LIMIT, IMPORT_LIMIT, upload_limit(config)),
            routes=Routes(streams),
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self._started()
        scope["draining"] = self.answers.draining
        scope["knowledge"] = self.knowledge
        scope["answers"] = self.answers
        await self._guarded(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        await self._started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    async def _started(self) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(self.startup())
        if not self._starting.done():
            await asyncio.shield(self._starting)

    async def startup(self) -> None:
        self.knowledge.embedding.start()
        await self.answers.start()
        await self.providers.start()
        self._watching = asyncio.create_task(self.lag.watch_forever())
        stop_with_reactor(self)

    async def drain(self, *, grace: float) -> None:
        """
        Refuse new answers and end the running ones; the socket still listens.

        A second call with less `grace` (seconds) hurries the first.
        """
        await self.answers.drain(grace=grace)

    async def shutdown(self) -> None:
        """End everything the process owns; safe to call twice."""
        await self.drain(grace=settings.CONFIG.server.shutdown_grace)
        self._watching.cancel()
        await self.answers.aclose()
        await self.providers.aclose()
        await asyncio.to_thread(self.threads.close)
        await asyncio.to_thread(self.password_threads.close)


def upload_limit(config: Config) -> BodyLimit:
    largest = (config.rag.max_upload_mb << 20) + MULTIPART_OVERHEAD
    return BodyLimit(paths=re.compile("/api/rag/doc/upload"), limit=largest)


def pool_sizes(connections: int, *, cores: int) -> tuple[int, int]:
    """
    How many threads of `connections` are for the database, and for password hashes.

    One connection is the ticker's; less than three in all is not possible.

    >>> pool_sizes(10, cores=2), pool_sizes(10, cores=64), pool_sizes(1, cores=2)
    ((8, 1), (6, 3), (1, 1))
    """
    hashing = max(1, min(cores - 1, connections // 3))
    return max(1, connections - 1 - hashing), hashing


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Close a WebSocket that no consumer takes."""
    await receive()
    await send({"type": "websocket.close", "code": 4404})


def stop_with_reactor(application: Application) -> None:
    """Under daphne: have Twisted wait for our shutdown before it stops."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is None or not reactor.running:
        return
    from twisted.internet.defer import Deferred

    reactor.addSystemEventTrigger(
        "before",
        "shutdown",
        lambda: Deferred.fromFuture(asyncio.ensure_future(application.shutdown())),
    )


application = Application()
