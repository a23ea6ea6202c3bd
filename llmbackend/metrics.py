"""
What operators watch, counted by every server process and told to Prometheus.

`serve` gives its processes a directory to count in. Without one, as in commands and
tests, nothing is counted and prometheus_client is not even imported.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbackend.config_reading import ConfigError

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)
TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
STAGE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Instruments:
    """What is counted. Gauges are summed over the processes that live."""

    def __init__(self) -> None:
        self.open_streams = _gauge(
            "open_streams", "Answers being read over HTTP, and signed-in WebSockets."
        )
        self.answers = _counter(
            "answers",
            "Answers by how they ended; code is that of the error, if it was one.",
            ("provider", "model", "end", "code"),
        )
        self.orphaned = _counter(
            "answers_orphaned", "Answers ended because the process writing them died."
        )
        self.first_token = _histogram(
            "time_to_first_token_seconds",
            "From the stored question to the first piece of its answer.",
            TOKEN_SECONDS,
            ("provider", "model"),
        )
        self.provider_errors = _counter(
            "provider_errors",
            "Calls to a provider that failed, after all retries.",
            ("provider", "call", "code"),
        )
        self.provider_retries = _counter(
            "provider_retries",
            "Calls to a provider that were made again after a failure.",
            ("provider", "call"),
        )
        self.stages = _histogram(
            "ingestion_stage_seconds",
            "Of a document: to parse it, to embed a batch of chunks, to store one.",
            STAGE_SECONDS,
            ("stage",),
        )
        self.at_stage = _gauge(
            "ingestions_in_progress", "Documents being worked on.", ("stage",)
        )
        self.ingestions = _counter(
            "ingestions", "Documents worked on, by how that ended.", ("end",)
        )
        self.index_memory = _gauge(
            "index_memory_bytes", "Memory of the search indexes that are kept."
        )
        self.lag = _histogram(
            "event_loop_lag_seconds",
            "How much later than asked for the event loop ran a timer.",
            LAG_SECONDS,
        )
        self.requests = _histogram(
            "http_request_duration_seconds",
            "From the head of a request to the end of its answer; streams too.",
            REQUEST_SECONDS,
            ("method", "route", "status"),
        )


def _counter(name: str, told: str, labels: tuple[str, ...] = ()) -> Counter:
    from prometheus_client import Counter

    return Counter(f"llmbackend_{name}", told, labels, registry=None)


def _gauge(name: str, told: str, labels: tuple[str, ...] = ()) -> Gauge:
    from prometheus_client import Gauge

    return Gauge(
        f"llmbackend_{name}", told, labels, registry=None, multiprocess_mode="livesum"
    )


def _histogram(
    name: str, told: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
) -> Histogram:
    from prometheus_client import Histogram

    return Histogram(f"llmbackend_{name}", told, labels, registry=None, buckets=buckets)


@cache
def instruments() -> Instruments | None:
    """Those of this process; None when nothing is counted."""
    return Instruments() if DIRECTORY in os.environ else None


@contextmanager
def counted_in(directory: Path | None) -> Iterator[None]:
    """
    Have this process, and those it starts, count in a directory made for that.

    It is removed at the end, and what a killed server left of it at the start. None:
    nothing is counted. Raises ConfigError where it cannot be made.
    """
    os.environ.pop(DIRECTORY, None)
    if directory is None:
        yield
        return
    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir(mode=0o700)
    except OSError as exc:
        raise ConfigError(f"{directory}: cannot be made: {exc.strerror}") from exc
    os.environ[DIRECTORY] = str(directory)
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def forget_gauges_of(pid: int) -> None:
    """A process died: what it had open is open no more; what it counted stays."""
    if DIRECTORY in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """What all processes of this server counted, for Prometheus to read."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Counted())
    return generate_latest(registry)


class _Counted:
    """
    What stands in the files of all processes.

    A process that starts makes a file before it writes to it, and prometheus_client
    cannot read one that is empty.
    """

    def collect(self) -> Any:
        from prometheus_client.multiprocess import MultiProcessCollector

        files = Path(os.environ[DIRECTORY]).glob("*.db")
        filled = [str(path) for path in files if _size_of(path)]
        return MultiProcessCollector.merge(filled)  # type: ignore[no-untyped-call]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # It was of a process that has just died.
        return 0


def streams_open(count: int) -> None:
    if (kept := instruments()) is not None:
        kept.open_streams.set(count)


def answer_ended(
    *, provider: str, model: str, end: str, code: str, first_token: float | None
) -> None:
    """`model` is a name or pattern of the config; `first_token` in seconds, if any."""
    if (kept := instruments()) is not None:
        kept.answers.labels(provider, model, end, code).inc()
        if first_token is not None:
            kept.first_token.labels(provider, model).observe(max(0.0, first_token))


def answers_orphaned(count: int) -> None:
    if count and (kept := instruments()) is not None:
        kept.orphaned.inc(count)


def provider_failed(provider: str, *, call: str, code: str) -> None:
    """`call` is `chat` or `embedding`."""
    if (kept := instruments()) is not None:
        kept.provider_errors.labels(provider, call, code).inc()


def provider_retried(provider: str, *, call: str) -> None:
    if (kept := instruments()) is not None:
        kept.provider_retries.labels(provider, call).inc()


@contextmanager
def ingesting(stage: str) -> Iterator[None]:
    """Time a stage of an ingestion: `parse`, `embed` or `store`."""
    kept = instruments()
    if kept is None:
        yield
        return
    with (
        kept.at_stage.labels(stage).track_inprogress(),
        kept.stages.labels(stage).time(),
    ):
        yield


def ingestion_ended(end: str) -> None:
    """`ready`, or the code of an error."""
    if (kept := instruments()) is not None:
        kept.ingestions.labels(end).inc()


def index_memory(size: int) -> None:
    if (kept := instruments()) is not None:
        kept.index_memory.set(size)


def loop_was_late(seconds: float) -> None:
    if (kept := instruments()) is not None:
        kept.lag.observe(max(0.0, seconds))


def request_ended(*, method: str, route: str, status: int, began: float) -> None:
    """`began` by time.monotonic(); a `status` of 0 is none."""
    if (kept := instruments()) is not None:
        known = method if method in METHODS else "other"
        timed: Any = kept.requests.labels(known, route, str(status or "none"))
        timed.observe(time.monotonic() - began)
