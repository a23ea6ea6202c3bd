"""The model process as a server sees it: start it, or join the one another started."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import llmbackend
from llmbackend.errors import ProviderError
from llmbackend.local.order import Announcement, Order
from llmbackend.local.weights import Models

logger = logging.getLogger(__name__)

DID_NOT_START = "The embedded model did not start."
START_TIMEOUT = 60.0
_JOIN_TIMEOUT = 5.0
_END_TIMEOUT = 2.0
_LOCK_FILE = "local-models.lock"
_STATE_FILE = "local-models.json"
# All the process is given of the server's environment, which holds provider keys.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "TZ")
# numpy's: queries and passages have one thread each, and the chat model has its own.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a model process listens and what it serves, as the state file keeps it."""

    pid: int
    port: int
    key: str = field(repr=False)
    models: Models


class Lifeline(asyncio.Protocol):
    """
    An open connection to the process: it lives while this is held, and `lost` tells
    that it died.
    """

    def __init__(self) -> None:
        self.lost = False
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True
        if not self.answer.done():
            self.answer.set_result(b"")

    def let_go(self) -> None:
        """The process ends when the last one lets go."""
        if self._transport is not None:
            self._transport.close()


async def join(address: Address) -> Lifeline | None:
    """Hold on to the process at `address`; None if it is not there, or not ours."""
    request = (
        "GET /lifeline HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {address.key}\r\n\r\n"
    )
    lifeline = Lifeline()
    loop = asyncio.get_running_loop()
    joined = False
    try:
        async with asyncio.timeout(_JOIN_TIMEOUT):
            transport, _ = await loop.create_connection(
                lambda: lifeline, "127.0.0.1", address.port
            )
            transport.write(request.encode())
            joined = (await lifeline.answer).startswith(b"HTTP/1.1 200 ")
    except (OSError, TimeoutError):
        return None
    finally:
        if not joined:
            lifeline.let_go()
    return lifeline if joined else None


@contextlib.asynccontextmanager
async def claimed(run_dir: Path) -> AsyncIterator[None]:
    """Only one process of this machine at a time is in the block."""
    lock = await asyncio.to_thread(_open_lock, run_dir)
    try:
        async with asyncio.timeout(START_TIMEOUT + _JOIN_TIMEOUT):
            # Not a blocking flock in a thread: that could not be cancelled.
            while not _try_lock(lock):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(lock)


def _open_lock(run_dir: Path) -> int:
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(run_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def recorded(run_dir: Path) -> Address | None:
    """The process last recorded in `run_dir`; it may long be dead."""
    try:
        data = json.loads((run_dir / _STATE_FILE).read_bytes())
        return Address(**data | {"models": Models.from_json(data["models"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(run_dir: Path, address: Address) -> None:
    """Let the other server processes find it; readable by this user alone."""
    new = run_dir / f"{_STATE_FILE}.new"
    new.unlink(missing_ok=True)
    opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "w") as file:
        json.dump(asdict(address), file)
    new.replace(run_dir / _STATE_FILE)


async def start(order: Order) -> tuple[subprocess.Popen[bytes], Address]:
    """A new process, once it listens; raise ProviderError, the reason in the log."""
    began = time.monotonic()
    process = await _spawned(order)
    port = 0
    try:
        async with asyncio.timeout(START_TIMEOUT):
            port = await asyncio.to_thread(_announced_port, process)
    except TimeoutError:
        logger.error("The model process was not ready after %.0f s", START_TIMEOUT)
    finally:
        if not port:
            process.kill()
    if not port:
        raise ProviderError(DID_NOT_START)
    took = time.monotonic() - began
    names = " and ".join(order.models.names())
    logger.info("%s: process %s ready in %.1f s", names, process.pid, took)
    address = Address(pid=process.pid, port=port, key=order.key, models=order.models)
    return process, address


async def _spawned(order: Order) -> subprocess.Popen[bytes]:
    spawning = asyncio.create_task(asyncio.to_thread(_spawn, order))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        # The thread goes on all the same, and nobody else would end its process.
        (await spawning).kill()
        raise


def _spawn(order: Order) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmbackend.local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        cwd=Path(llmbackend.__file__).parents[1],
        start_new_session=True,  # Ctrl-C is for the server, which drains first.
    )
    watch = threading.Thread(target=_watch, args=(process,), daemon=True)
    watch.start()
    _write_order(process, order)
    return process


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | _ONE_THREAD


def _write_order(process: subprocess.Popen[bytes], order: Order) -> None:
    stdin = _pipe(process.stdin)
    try:
        stdin.write(order.to_line())
        stdin.flush()
    except BrokenPipeError:
        logger.error("The model process ended before it was told what to do")


def _watch(process: subprocess.Popen[bytes]) -> None:
    """Drain what the process complains of, reap it, and log why it died."""
    tail: deque[str] = deque(maxlen=20)
    with _pipe(process.stderr) as stderr:
        while line := stderr.readline(300):
            tail.append(line.decode(errors="replace").rstrip())
    code = process.wait()
    _close_input(process)
    _pipe(process.stdout).close()
    if code:
        said = " | ".join(tail)
        logger.error("Model process %s ended with %s: %s", process.pid, code, said)


def _announced_port(process: subprocess.Popen[bytes]) -> int:
    """Blocks until the process says something or dies; 0 when it cannot serve."""
    try:
        line = _pipe(process.stdout).readline(10_000)
        announcement = Announcement.from_line(line)
    except (ValueError, TypeError):
        return 0  # It died without a word; its end is logged.
    if announcement.error:
        logger.error("The model process cannot serve: %s", announcement.error)
    return announcement.port


def end(process: subprocess.Popen[bytes]) -> None:
    """Let the process end; one that others hold on to lives until they let go."""
    _close_input(process)
    try:
        process.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        logger.info("Model process %s is still in use by others", process.pid)


def _close_input(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # An order that was never read.
        _pipe(process.stdin).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("the process was started without this pipe")
    return stream
