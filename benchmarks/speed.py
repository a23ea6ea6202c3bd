"""
How fast the server is, measured from outside.

    python -m benchmarks.speed [--json FILE] [--only streams requests ...]
    python -m benchmarks.speed --base-url URL --pid PID

Without --base-url a server is started on files of its own, with a stub provider on
port 18081. Another server is measured under its URL and process id, with a provider for
the model `gpt-stub` at http://127.0.0.1:18081/v1.

CPU is the server's user and system time over all its processes. The delay of a piece is
from the stub's write to the client's read. The rows of `stub` are the same streams read
from the stub itself: what stub and client can do without a server between them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.load import Stream, Target, read_streams, send_requests
from benchmarks.servers import (
    PASSWORD,
    STUB_PORT,
    Server,
    conversations,
    own_server,
    sign_in,
    started,
)

PARTS = ("stub", "requests", "streams", "logins", "memory", "start")
# Streams at once, pieces of each, milliseconds between two, pieces in a write.
STREAMS = (
    (50, 200, 0, 1),
    (200, 200, 0, 1),
    (500, 200, 0, 1),
    (50, 200, 0, 16),
    (50, 200, 20, 1),
    (200, 200, 20, 1),
    (500, 200, 20, 1),
)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def measure_stub() -> list[dict[str, Any]]:
    target = Target(f"http://127.0.0.1:{STUB_PORT}", "")
    rows = []
    for at_once, pieces, pace, batch in STREAMS:
        began = time.monotonic()
        told = await read_streams(
            target,
            ["/v1/chat/completions"] * at_once,
            order=order(pieces, pace, batch),
            spread=1.0 if pace else 0.0,
        )
        seen = figures(told, at_once * pieces, 0.0, time.monotonic() - began)
        del seen["cpu_us_a_piece"]
        setting = {"streams": at_once, "pace_ms": pace, "batch": batch}
        rows.append({"stub": "alone", **setting, **median_of([seen])})
        print(line_of(rows[-1]), flush=True)
    return rows


async def measure_streams(
    target: Target, server: Server, *, repeats: int
) -> list[dict[str, Any]]:
    rows = []
    # The first answer imports what is left to import.
    await read_streams(target, await new_chats(target, 5), order=order(5, 0, 1))
    for at_once, pieces, pace, batch in STREAMS:
        runs = []
        for _ in range(repeats):
            made = await new_chats(target, at_once)
            spread = 1.0 if pace else 0.0
            before, began = server.cpu(), time.monotonic()
            told = await read_streams(
                target, made, order=order(pieces, pace, batch), spread=spread
            )
            seconds = time.monotonic() - began
            runs.append(figures(told, at_once * pieces, server.cpu() - before, seconds))
        row = {"streams": at_once, "pace_ms": pace, "batch": batch, **median_of(runs)}
        rows.append(row)
        print(line_of(row), flush=True)
    return rows


def chat_of(conversation: int) -> str:
    return f"/api/chat/{conversation}"


async def new_chats(target: Target, count: int) -> list[str]:
    """The paths to ask so many new conversations by."""
    return [chat_of(each) for each in await conversations(target, count)]


def order(pieces: int, pace: int, batch: int) -> str:
    return f"chunks={pieces} pace={pace} batch={batch}"


def figures(
    told: Sequence[Stream], pieces: int, cpu: float, seconds: float
) -> dict[str, float]:
    delays = [delay for stream in told for delay in stream.delays]
    return {
        "cpu_us_a_piece": cpu / pieces * 1e6,
        "pieces_a_second": len(delays) / seconds,
        "delay_p50_ms": percentile(delays, 0.5) * 1e3,
        "delay_p99_ms": percentile(delays, 0.99) * 1e3,
        "first_p50_ms": percentile([s.first for s in told], 0.5) * 1e3,
        "first_p99_ms": percentile([s.first for s in told], 0.99) * 1e3,
        "lost": pieces - len(delays) + sum(not s.complete for s in told),
    }


def median_of(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]
    }


def line_of(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in row.items())


async def measure_fixed_cost(target: Target, server: Server) -> dict[str, Any]:
    """CPU of a stream of one piece: sign-in, history, rows, the end."""
    made = await new_chats(target, 320)
    before = server.cpu()
    for start in range(0, len(made), 16):
        part = made[start : start + 16]
        await read_streams(target, part, order=order(1, 0, 1))
    row = {"stream_of_one_cpu_ms": round((server.cpu() - before) / len(made) * 1e3, 3)}
    print(line_of(row), flush=True)
    return row


async def measure_requests(
    base_url: str, server: Server, *, seconds: float
) -> list[dict[str, Any]]:
    target = await sign_in(base_url, "requests")
    made = await conversations(target, 20)
    for _ in range(10):
        await read_streams(target, [chat_of(made[0])], order=order(5, 0, 1))
    new = {"title": "Benchmark", "model": "gpt-stub"}
    requests = {
        "list": target.request("GET", "/api/conversations/list"),
        "history": target.request("GET", f"/api/conversations/history/{made[0]}"),
        "create": target.request("POST", "/api/conversations/create", new),
    }
    rows = []
    for name, request in requests.items():
        for connections in (1, 16, 64):
            before = server.cpu()
            run = await send_requests(
                target, request, connections=connections, seconds=seconds
            )
            answered = len(run.latencies)
            row = {
                "request": name,
                "connections": connections,
                "a_second": round(answered / run.seconds),
                "p50_ms": round(percentile(run.latencies, 0.5) * 1e3, 2),
                "p99_ms": round(percentile(run.latencies, 0.99) * 1e3, 2),
                "cpu_ms": round((server.cpu() - before) / answered * 1e3, 3),
                "failed": run.failed,
            }
            rows.append(row)
            print(line_of(row), flush=True)
    return rows


async def measure_logins(target: Target) -> list[dict[str, Any]]:
    """How late the pieces of 50 streams are alone, and while 16 clients log in."""
    who = {"username": "streams", "password": PASSWORD}
    login = target.request("POST", "/api/users/login", who)
    delays: dict[int, list[float]] = {0: [], 16: []}
    for _ in range(3):
        for clients, seen in delays.items():
            made = await new_chats(target, 50)
            logins = send_requests(target, login, connections=clients, seconds=4.5)
            told, _ = await asyncio.gather(
                read_streams(target, made, order=order(200, 20, 1), spread=0.5), logins
            )
            every = [delay for stream in told for delay in stream.delays]
            seen.append(percentile(every, 0.99) * 1e3)
    rows = [
        {"logging_in": clients, "delay_p99_ms": round(statistics.median(seen), 2)}
        for clients, seen in delays.items()
    ]
    for row in rows:
        print(line_of(row), flush=True)
    return rows


async def measure_memory(target: Target, server: Server) -> dict[str, Any]:
    """What an open stream costs: 2,000 of them, a piece each half second."""
    made = await new_chats(target, 2000)
    before = server.memory()
    reading = asyncio.ensure_future(
        read_streams(target, made, order=order(24, 500, 1), spread=5.0)
    )
    await asyncio.sleep(9)
    with_all = server.memory()
    told = await reading
    row = {
        "open": len(made),
        "idle_mb": round(before / 2**20, 1),
        "kb_a_stream": round((with_all - before) / len(made) / 1024, 1),
        "incomplete": sum(not each.complete for each in told),
    }
    print(line_of(row), flush=True)
    return row


def measure_starts() -> list[dict[str, Any]]:
    """
    A start on no files, which migrates, and the next one.

    Seconds from the command to the first answered request, by the clock and of CPU, and
    what is resident after the first answer of a model.
    """
    runs: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(4):
        with tempfile.TemporaryDirectory() as folder:
            for start, seen in runs.items():
                began = time.monotonic()
                with own_server(folder) as server:
                    taken = {"seconds": time.monotonic() - began, "cpu": server.cpu()}
                    asyncio.run(one_answer(server, user=start))
                    seen.append({**taken, "memory_mb": server.memory() / 2**20})
    rows = [{"start": start, **median_of(seen)} for start, seen in runs.items()]
    for row in rows:
        print(line_of(row), flush=True)
    return rows


async def one_answer(server: Server, *, user: str) -> None:
    target = await sign_in(server.base_url, user)
    await read_streams(target, await new_chats(target, 1), order=order(5, 0, 1))


async def measured(server: Server, asked: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"load_before": os.getloadavg(), "cores": os.cpu_count()}
    if "stub" in asked.only:
        found["stub"] = await measure_stub()
    if "requests" in asked.only:
        found["requests"] = await measure_requests(
            server.base_url, server, seconds=asked.seconds
        )
    target = await sign_in(server.base_url, "streams")
    if "streams" in asked.only:
        found["streams"] = await measure_streams(target, server, repeats=asked.repeats)
        found["fixed"] = await measure_fixed_cost(target, server)
    if "logins" in asked.only:
        found["logins"] = await measure_logins(target)
    if "memory" in asked.only:
        found["memory"] = await measure_memory(target, server)
    found["load_after"] = os.getloadavg()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-url", help="measure this server")
    parser.add_argument("--pid", type=int, help="its process id")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each setting")
    parser.add_argument("--seconds", type=float, default=4.0, help="a run of requests")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    asked = parser.parse_args()
    with started(["-m", "benchmarks.stub", str(STUB_PORT)]):
        if asked.base_url:
            server = Server(asked.base_url, psutil.Process(asked.pid))
            found = uvloop.run(measured(server, asked))
        else:
            with (
                tempfile.TemporaryDirectory() as folder,
                own_server(folder, workers=asked.workers) as server,
            ):
                found = uvloop.run(measured(server, asked))
            if "start" in asked.only:
                found["starts"] = measure_starts()
    print(f"load {found['load_before']} before, {found['load_after']} after")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
