"""The server processes: one socket, uvicorn or daphne on it, and their orderly end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import CommandError
from django.urls import get_resolver

from llmbackend import metrics
from llmbackend.handover import started
from llmbackend.log import spare_what_no_line_says, take_what_is_printed
from llmbackend.protocol import BoundedProtocol, PatientSocket

logger = logging.getLogger(__name__)

BACKLOG = 2048
UNACKNOWLEDGED_SECONDS = 30
# Seconds for readers to take the end of what they read, and for all else to end.
AFTER_DRAIN = 3
AFTER_GRACE = 4.5
BETWEEN_RESTARTS = 1.0
# Of each worker on the average, before any has ever served.
FAILED_STARTS = 2
NONE_SERVED = "No worker came to serve: each ended at its start."


def bind(*, host: str, port: int) -> socket.socket:
    """
    A socket that has the address and does not listen yet.

    The system drops its connections when their other end has vanished, where it can.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Every connection inherits it.
        milliseconds = UNACKNOWLEDGED_SECONDS * 1000
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    sock.bind((host, port))
    return sock


def is_listening(sock: socket.socket) -> bool:
    """Whether any process that shares `sock` takes connections on it."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def open_as_many_files_as_may_be() -> None:
    """Each stream has two sockets, and most systems begin with 1,024 files."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as exc:
        # Some name a limit that they do not grant.
        logger.warning("No more than %s files can be open at once (%s)", allowed, exc)


def load() -> Any:
    """The application, with all imported that a first request would wait for."""
    from llmbackend.asgi import application

    open_as_many_files_as_may_be()
    take_what_is_printed()
    spare_what_no_line_says()
    metrics.instruments()
    get_resolver().url_patterns  # noqa: B018
    # What was imported stays. A full collection that walks it stops every stream for
    # some 50 ms, and building an index or storing a document causes several.
    gc.collect()
    gc.freeze()
    give_back_memory()
    return application


def give_back_memory() -> None:
    """Hand the system what was freed, 5 MB after migrations; glibc has to be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Ending:
    """
    What a first signal does: drain, then call `finish`. A second one hurries.

    Belongs to the event loop it is made on. Whatever happens, the process is gone
    shortly after shutdown_grace: what kills a server that is late spares nothing.
    """

    def __init__(self, application: Any, *, finish: Callable[[], Any]) -> None:
        self._application = application
        self._finish = finish
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        if not self._tasks:
            grace = settings.CONFIG.server.shutdown_grace
            give_up_after(grace + AFTER_GRACE)
            self._tasks.append(asyncio.ensure_future(self._end(grace)))
        else:
            hurry = self._application.drain(grace=0)
            self._tasks.append(asyncio.ensure_future(hurry))

    def begin_once(self) -> None:
        if not self._tasks:
            self.begin()

    async def _end(self, grace: float) -> None:
        try:
            await self._application.drain(grace=grace)
        finally:
            self._finish()


def give_up_after(seconds: float) -> None:
    """End the process hard if it is still there then."""
    timer = threading.Timer(seconds, os._exit, args=[1])
    timer.daemon = True
    timer.start()


class Server(uvicorn.Server):
    """
    uvicorn, but a signal drains before anything is closed.

    uvicorn alone closes its socket first, and ends a writer that has no readers.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        application: Any,
        ready: Callable[[], None],
        supervisor: int | None,
    ) -> None:
        super().__init__(config)
        self._application = application
        self._ready = ready
        self._supervisor = supervisor

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = Ending(self._application, finish=self._exit)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        # A worker whose supervisor was killed must not serve on alone.
        if self._supervisor is not None and os.getppid() != self._supervisor:
            self._supervisor = None
            self._ending.begin()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A service manager tells every process, and the supervisor tells its workers,
        # so that SIGTERM is news to them once. What hurries them is SIGINT.
        is_worker = self._supervisor is not None
        known = is_worker and sig == signal.SIGTERM
        begin = self._ending.begin_once if known else self._ending.begin
        self._loop.call_soon_threadsafe(begin)

    def _exit(self) -> None:
        self.should_exit = True


def run_uvicorn(
    listening: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
    supervisor: int | None = None,
) -> None:
    """
    Serve on `listening` in this process until told to end.

    `ready` is called once connections are taken. With `supervisor`, a process id, the
    server also ends when that is its parent no more.
    """
    application = load()
    config = uvicorn_config(application)
    server = Server(config, application=application, ready=ready, supervisor=supervisor)
    server.run(sockets=[listening])


def uvicorn_config(application: Any) -> uvicorn.Config:
    """How uvicorn serves `application`."""
    return uvicorn.Config(
        application,
        http=BoundedProtocol,
        ws=PatientSocket,
        backlog=BACKLOG,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=1 << 20,
        # Pieces of a few characters do not pay for a compressor a socket.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=AFTER_DRAIN,
    )


def run_daphne(listening: socket.socket, *, ready: Callable[[], None]) -> None:
    """The same application and the same orderly end, under daphne."""
    from daphne.server import Server as Daphne
    from twisted.internet import reactor

    application = load()
    running: Any = reactor
    listening.listen(BACKLOG)
    listening.setblocking(False)
    server = Daphne(
        application,
        endpoints=[f"fd:fileno={listening.fileno()}"],
        signal_handlers=False,
        ready_callable=ready,
        server_name="",
    )

    def started() -> None:
        ending = Ending(application, finish=lambda: asyncio.ensure_future(finish()))
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, ending.begin)

    async def finish() -> None:
        await answered(server)
        await application.shutdown()
        running.stop()

    running.callLater(0, started)
    server.run()


async def answered(daphne: Any) -> None:
    """
    Wait until no request is being answered, for AFTER_DRAIN seconds at most.

    Not for WebSockets: one that nobody speaks on has no end.
    """
    from daphne.ws_protocol import WebSocketProtocol

    until = time.monotonic() + AFTER_DRAIN
    while time.monotonic() < until:
        # One turn more than the last answer takes, for its bytes to be sent.
        await asyncio.sleep(0.1)
        running = [
            connection.get("application_instance")
            for protocol, connection in daphne.connections.items()
            if not isinstance(protocol, WebSocketProtocol)
        ]
        if all(task is None or task.done() for task in running):
            return


class Supervisor:
    """Keeps `workers` processes on one socket, and passes signals on."""

    def __init__(self, listening: socket.socket, *, workers: int) -> None:
        self._socket = listening
        self._count = workers
        self._workers: list[subprocess.Popen[bytes]] = []
        self._signals = 0

    def _spawn(self) -> subprocess.Popen[bytes]:
        fd = self._socket.fileno()
        program = str(settings.BASE_DIR / "manage.py")
        command = [sys.executable, program, "serve", "--worker", str(fd)]
        # A session of its own: Ctrl-C reaches the supervisor alone, which tells them.
        return started(
            [*command, str(os.getpid())],
            config=settings.CONFIG,
            keys=settings.KEYS,
            fd=fd,
        )

    def note(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler; everything else happens in `run`."""
        self._signals += 1

    def run(self, *, ready: Callable[[], None]) -> None:
        """
        Until a signal; a worker that dies is replaced, at most one a second.

        Raises CommandError when they end at their start, and none has ever served.
        """
        failures = FAILED_STARTS * self._count
        self._workers = [self._spawn() for _ in range(self._count)]
        while not self._signals and not is_listening(self._socket):
            failures -= self._replace_the_dead()
            if failures <= 0 and not is_listening(self._socket):
                self._signals += 1
                self._end_workers()
                raise CommandError(NONE_SERVED)
        if not self._signals:
            ready()
        while not self._signals:
            self._replace_the_dead()
        self._end_workers()

    def _replace_the_dead(self) -> int:
        """How many there were."""
        time.sleep(0.1)
        dead = [place for place, each in enumerate(self._workers) if is_dead(each)]
        for place in dead:
            if not self._signals:
                metrics.forget_gauges_of(self._workers[place].pid)
                time.sleep(BETWEEN_RESTARTS)
                self._workers[place] = self._spawn()
        return len(dead)

    def _end_workers(self) -> None:
        passed_on = 0
        while any(worker.poll() is None for worker in self._workers):
            # A second signal hurries the workers, as it would hurry one alone.
            if passed_on < self._signals:
                sig = signal.SIGINT if passed_on else signal.SIGTERM
                passed_on += 1
                for worker in self._workers:
                    worker.send_signal(sig)
            time.sleep(0.05)


def is_dead(worker: subprocess.Popen[bytes]) -> bool:
    return worker.poll() is not None


def supervise(
    listening: socket.socket, *, workers: int, ready: Callable[[], None]
) -> None:
    """
    Serve with several processes until SIGTERM or SIGINT.

    Raises CommandError if none of them comes to serve.
    """
    listening.set_inheritable(True)
    supervisor = Supervisor(listening, workers=workers)
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, supervisor.note)
    supervisor.run(ready=ready)
