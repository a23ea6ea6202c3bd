"""SIGTERM: what runs is ended in order, what cannot end is stored, nothing hangs."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests import fake_provider
from tests.chat.streams import SSE, events_in, text_of
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE
from tests.served import ServeProcess, fake_section, serving

SERVERS = ["uvicorn", "daphne"]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


def rows(server: ServeProcess) -> list[tuple[str, str]]:
    """(status, content) of the answers, as the database holds them."""
    return server.query(
        "SELECT status, content FROM conversations_message"
        " WHERE role = 'assistant' ORDER BY id"
    )


def conversation(client: httpx2.Client) -> int:
    body = {"title": "Rust", "model": "gpt-4o"}
    created = client.post("/api/conversations/create", json=body)
    return int(created.raise_for_status().json()["conversation_id"])


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def wait_for_status(client: httpx2.Client, path: str, status: int) -> httpx2.Response:
    until = time.monotonic() + PATIENCE
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
        assert read.reached.wait(PATIENCE)
        waiting = pool.submit(whole, alice, paths[2], provider, endless)
        assert endless.reached.wait(PATIENCE)

        server.terminate()
        draining = wait_for_status(alice, "/readyz", 503)
        refused = alice.post(paths[3], json={"message": "Hi"})
        listed = alice.get("/api/conversations/list")
        read.release.set()
        unread.release.set()

        assert draining.json()["server"] == "restarting"
        assert int(draining.headers["Retry-After"]) > 0
        assert refused.status_code == 503
        assert refused.json()["code"] == "server_restarting"
        assert int(refused.headers["Retry-After"]) > 0
        assert listed.status_code == 200
        assert events(reading.result(PATIENCE))[-1] == {
            "event": "full_response",
            "data": "Hello",
        }
        # An answer without an end would keep it for longer than this.
        assert server.wait(PATIENCE) == 0
        assert events(waiting.result(PATIENCE))[0] == {
            "event": "message",
            "data": "Hel",
        }
        assert events(waiting.result(PATIENCE))[-1]["event"] == "error"
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
        assert endless.reached.wait(PATIENCE)

        server.terminate(signal.SIGINT)
        wait_for_status(alice, "/readyz", 503)
        server.terminate(signal.SIGINT)

        assert server.wait(30) == 0  # The grace is a minute.
        assert events(waiting.result(PATIENCE))[-1]["event"] == "error"
        assert rows(server)[1:] == [("interrupted", "Hel")]
        stalled.close()


@pytest.mark.parametrize(("kind", "code"), [("uvicorn", 1012), ("daphne", 1006)])
def test_sockets_are_told_the_end_and_closed(
    tmp_path: Path, provider: FakeProvider, kind: str, code: int
) -> None:
    endless = Script(pieces=["Hel", "lo"], stall_after=1)
    provider.enqueue(endless)
    with (
        serving(
            tmp_path, f"--server={kind}", providers=fake_section(provider.base_url)
        ) as server,
        server.signed_in() as alice,
        open_socket(server, alice, conversation(alice)) as reading,
        open_socket(server, alice, conversation(alice)) as idle,
    ):
        reading.send('{"type":"message","message":"Hi"}')
        assert endless.reached.wait(PATIENCE)

        server.terminate()
        wait_for_status(alice, "/readyz", 503)
        idle.send('{"type":"message","message":"Hi"}')

        told, read_code = until_closed(reading)
        refused, idle_code = until_closed(idle)
        names = [event["event"] for event in told]
        assert names == ["started", "message", "usage", "error"]
        assert told[-1]["data"]["status"] == "interrupted"
        assert told[-1]["data"]["retryable"] is True
        assert [event["data"]["code"] for event in refused] == ["server_restarting"]
        assert (read_code, idle_code) == (code, code)
        assert server.wait(PATIENCE) == 0


def test_readers_of_another_processs_answer_are_sent_there(
    tmp_path: Path, provider: FakeProvider
) -> None:
    held = Script(pieces=["Hel", "lo"], stall_after=1)
    provider.enqueue(held)
    providers = fake_section(provider.base_url)
    grace = {"shutdown_grace": 2 * PATIENCE}
    with (
        serving(tmp_path, providers=providers) as writer,
        serving(tmp_path, server=grace, providers=providers) as follower,
        writer.signed_in() as alice,
        follower.client(headers=alice.headers) as elsewhere,
    ):
        number = conversation(alice)
        stream = f"/api/chat/{number}/stream"
        with (
            alice.stream("POST", f"/api/chat/{number}", json={"message": "Hi"}),
            elsewhere.stream("GET", stream, headers=SSE) as response,
            open_socket(follower, alice, number) as sock,
        ):
            events = events_in(response.iter_lines())
            seen = [next(events), next(events)]
            sock.send('{"type":"resume"}')
            over_socket = [json.loads(sock.recv(PATIENCE))["event"] for _ in "12"]

            follower.terminate()

            assert follower.wait(PATIENCE) == 0  # It writes nothing: there is no grace.
            assert list(events) == []
            assert until_closed(sock) == ([], 1012)
            held.release.set()
            last = {**SSE, "Last-Event-ID": seen[-1].id}
            with alice.stream("GET", stream, headers=last) as resumed:
                rest = list(events_in(resumed.iter_lines()))

    assert over_socket == ["started", "message"]
    assert text_of(seen) + text_of(rest) == "Hello"
    assert rest[-1].name == "done"


@dataclass
class Asked:
    """Two answers that workers write, each at its first piece."""

    alice: httpx2.Client
    read: Script
    reading: Future[str]
    waiting: Future[str]

    def reads_on_for_a_second(self) -> None:
        """The reader is not cut, as it would be by a second signal."""
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert not self.reading.done()
            time.sleep(0.02)


@contextmanager
def two_asked(
    tmp_path: Path, provider: FakeProvider, *, grace: int
) -> Iterator[tuple[ServeProcess, Asked]]:
    read, endless = (Script(pieces=["Hel", "lo"], stall_after=1) for _ in "12")
    with (
        serving(
            tmp_path,
            server={"shutdown_grace": grace, "workers": 2},
            providers=fake_section(provider.base_url),
        ) as server,
        server.signed_in() as alice,
        ThreadPoolExecutor() as pool,
    ):
        futures = []
        for script in (read, endless):
            path = f"/api/chat/{conversation(alice)}"
            futures.append(pool.submit(whole, alice, path, provider, script))
            assert script.reached.wait(PATIENCE)
        yield server, Asked(alice, read, *futures)


def test_workers_are_told_once_and_end_within_the_grace(
    tmp_path: Path, provider: FakeProvider
) -> None:
    with two_asked(tmp_path, provider, grace=3) as (server, asked):
        another = f"/api/chat/{conversation(asked.alice)}"

        server.terminate()
        wait_for_status(asked.alice, "/readyz", 503)
        refused = asked.alice.post(another, json={"message": "Hi"})
        asked.reads_on_for_a_second()
        asked.read.release.set()

        assert refused.json()["code"] == "server_restarting"
        assert events(asked.reading.result(PATIENCE))[-1]["data"] == "Hello"
        assert events(asked.waiting.result(PATIENCE))[-1]["event"] == "error"
        assert server.wait(PATIENCE) == 0
        assert sorted(rows(server)) == [("complete", "Hello"), ("interrupted", "Hel")]


def test_workers_that_a_service_manager_tells_too_end_within_the_grace(
    tmp_path: Path, provider: FakeProvider
) -> None:
    with two_asked(tmp_path, provider, grace=60) as (server, asked):
        for process in [server.process, *server.workers()]:
            process.send_signal(signal.SIGTERM)
        asked.reads_on_for_a_second()
        asked.read.release.set()
        assert events(asked.reading.result(PATIENCE))[-1]["data"] == "Hello"
        server.terminate()  # Somebody does not want to wait for the other.

        assert events(asked.waiting.result(PATIENCE))[-1]["event"] == "error"
        assert server.wait(30) == 0  # The grace is a minute.
        assert sorted(rows(server)) == [("complete", "Hello"), ("interrupted", "Hel")]


@contextmanager
def open_socket(
    server: ServeProcess, alice: httpx2.Client, number: int
) -> Iterator[ClientConnection]:
    """A socket that is signed in."""
    token = alice.headers["Authorization"].removeprefix("Bearer ")
    protocols = [Subprotocol("bearer"), Subprotocol(token)]
    url = f"ws://127.0.0.1:{server.port}/ws/chat/{number}"
    with connect(url, subprotocols=protocols, proxy=None) as sock:
        assert json.loads(sock.recv(PATIENCE))["event"] == "ready"
        yield sock


def until_closed(sock: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """The events that are left, and the code it was closed with."""
    told = []
    try:
        while True:
            told.append(json.loads(sock.recv(PATIENCE)))
    except ConnectionClosed:
        return told, sock.close_code


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
