"""SIGTERM: what runs is ended in order, what cannot end is stored, nothing hangs."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import fake_provider
from tests.fake_provider import FakeProvider, Script
from tests.served import ServeProcess, fake_section, serving

SERVERS = ["uvicorn", "daphne"]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


def rows(server: ServeProcess) -> list[tuple[str, str]]:
    """(status, content) of the answers, as the database file holds them."""
    with sqlite3.connect(server.database) as database:
        found = database.execute(
            "SELECT status, content FROM conversations_message"
            " WHERE role = 'assistant' ORDER BY id"
        )
        return list(found)


def conversation(client: httpx2.Client) -> int:
    body = {"title": "Rust", "model": "gpt-4o"}
    created = client.post("/api/conversations/create", json=body)
    return int(created.raise_for_status().json()["conversation_id"])


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def wait_for_status(client: httpx2.Client, path: str, status: int) -> httpx2.Response:
    until = time.monotonic() + 5
    while (answer := client.get(path)).status_code != status:
        assert time.monotonic() < until, answer.text
        time.sleep(0.02)
    return answer


@pytest.mark.parametrize("kind", SERVERS)
def test_answers_end_in_order_while_new_ones_are_refused(
    tmp_path: Path, provider: FakeProvider, kind: str
) -> None:
    read, unread, endless = (Script(pieces=["Hel", "lo"], stall_after=1) for _ in "123")
    with (
        serving(
            tmp_path,
            f"--server={kind}",
            server={"shutdown_grace": 2},
            providers=fake_section(provider.base_url),
        ) as server,
        server.signed_in() as alice,
        ThreadPoolExecutor() as pool,
    ):
        paths = [f"/api/chat/{conversation(alice)}" for _ in "1234"]
        with ask(alice, paths[1], provider, unread) as response:
            next(response.iter_raw())
        reading = pool.submit(whole, alice, paths[0], provider, read)
        assert read.reached.wait(10)
        waiting = pool.submit(whole, alice, paths[2], provider, endless)
        assert endless.reached.wait(10)

        server.terminate()
        began = time.monotonic()
        draining = wait_for_status(alice, "/readyz", 503)
        refused = alice.post(paths[3], json={"message": "Hi"})
        listed = alice.get("/api/conversations/list")
        read.release.set()
        unread.release.set()

        assert draining.json()["server"] == "restarting"
        assert refused.status_code == 503
        assert refused.json()["code"] == "server_restarting"
        assert int(refused.headers["Retry-After"]) > 0
        assert listed.status_code == 200
        assert events(reading.result(10))[-1] == {
            "event": "full_response",
            "data": "Hello",
        }
        assert server.wait(7 - (time.monotonic() - began)) == 0
        assert events(waiting.result(10))[0] == {"event": "message", "data": "Hel"}
        assert events(waiting.result(10))[-1]["event"] == "error"
        assert sorted(rows(server)) == [
            ("complete", "Hello"),
            ("complete", "Hello"),
            ("interrupted", "Hel"),
        ]
        assert provider.wait_until(lambda: provider.answering == 0)


def test_a_second_signal_hurries_and_a_reader_that_takes_nothing_is_left(
    tmp_path: Path, provider: FakeProvider
) -> None:
    # Twice 4 MB on the wire, more than the kernel holds for one connection.
    large = Script(pieces=["🦀" * 65536] * 15)
    endless = Script(pieces=["Hel", "lo"], stall_after=1)
    provider.enqueue(large)
    with (
        serving(
            tmp_path,
            server={"shutdown_grace": 60},
            providers=fake_section(provider.base_url),
        ) as server,
        server.signed_in() as alice,
        ThreadPoolExecutor() as pool,
    ):
        stalled = open_chat(server, alice, conversation(alice))
        server.wait_for(lambda: [row[0] for row in rows(server)] == ["complete"])
        path = f"/api/chat/{conversation(alice)}"
        waiting = pool.submit(whole, alice, path, provider, endless)
        assert endless.reached.wait(10)

        server.terminate(signal.SIGINT)
        wait_for_status(alice, "/readyz", 503)
        server.terminate(signal.SIGINT)

        assert server.wait(30) == 0  # The grace is a minute.
        assert events(waiting.result(5))[-1]["event"] == "error"
        assert rows(server)[1:] == [("interrupted", "Hel")]
        stalled.close()


def ask(
    client: httpx2.Client, path: str, provider: FakeProvider, script: Script
) -> AbstractContextManager[httpx2.Response]:
    provider.enqueue(script)
    return client.stream("POST", path, json={"message": "Hi"})


def whole(
    client: httpx2.Client, path: str, provider: FakeProvider, script: Script
) -> str:
    with ask(client, path, provider, script) as response:
        return response.read().decode()


def open_chat(server: ServeProcess, alice: httpx2.Client, number: int) -> socket.socket:
    """A connection that asks, and then reads nothing of the answer."""
    stalled = socket.create_connection(("127.0.0.1", server.port))
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = b'{"message":"Hi"}'
    head = (
        f"POST /api/chat/{number} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {alice.headers['Authorization']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    stalled.sendall(head.encode() + body)
    return stalled
