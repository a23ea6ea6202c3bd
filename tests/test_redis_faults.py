"""
Everything that a Redis can do wrong, and all that must work meanwhile.

Two served processes share a database and a Redis; they and it are reached over sockets
alone, and nothing of the project runs in the test's process.
"""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests import fake_provider, redis_server, tcp_proxy
from tests.chat.eventually import eventually
from tests.chat.streams import SSE, events_in, events_of, text_of
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE
from tests.redis_server import RedisServer
from tests.served import ServeProcess, fake_section, serving
from tests.tcp_proxy import TcpProxy

PASSWORD = "canary-redis-password"
ALICE = {"username": "alice", "password": "correct horse battery"}
RECOVERS_WITHIN = 10.0
BETWEEN_LOG_LINES = 10.0


@dataclass(frozen=True)
class Site:
    """What the tests run against."""

    redis: RedisServer
    proxy: TcpProxy
    provider: FakeProvider
    here: ServeProcess
    there: ServeProcess
    alice: httpx2.Client
    elsewhere: httpx2.Client

    def admin(self) -> Redis:
        """A connection of the test's own, past the proxy."""
        return Redis(port=self.redis.port, password=self.redis.password)


@contextmanager
def site(folder: Path, *, redis_runs: bool) -> Iterator[Site]:
    redis_server.require_redis()
    with (
        fake_provider.running() as provider,
        redis_server.running(password=PASSWORD) as redis,
        tcp_proxy.running(TcpProxy(redis.port)) as proxy,
    ):
        if not redis_runs:
            redis.stop()
        config: dict[str, Any] = {
            "providers": fake_section(provider.base_url),
            "redis": {"address": proxy.address, "password": PASSWORD},
            "rag": {"default_embedding_model": "local-ngram"},
        }
        with (
            serving(folder, **config) as here,
            serving(folder, **config) as there,
            here.signed_in() as alice,
            there.client(headers=alice.headers) as elsewhere,
        ):
            yield Site(redis, proxy, provider, here, there, alice, elsewhere)


@contextmanager
def killed(site: Site) -> Iterator[None]:
    site.redis.stop()
    try:
        yield
    finally:
        site.redis.start()


@contextmanager
def stopped(site: Site) -> Iterator[None]:
    site.redis.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        site.redis.process.send_signal(signal.SIGCONT)


@contextmanager
def slow(site: Site) -> Iterator[None]:
    site.proxy.delay = 0.5
    try:
        yield
    finally:
        site.proxy.delay = 0.0


@contextmanager
def flushed(site: Site) -> Iterator[None]:
    with site.admin() as admin, again_and_again(admin.flushall, every=0.05):
        yield


@contextmanager
def full(site: Site) -> Iterator[None]:
    with site.admin() as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 1)
        try:
            yield
        finally:
            admin.config_set("maxmemory", 0)


@contextmanager
def wrong_password(site: Site) -> Iterator[None]:
    with site.admin() as admin:
        admin.config_set("requirepass", "another")
        for kind in ("normal", "pubsub"):
            admin.client_kill_filter(_type=kind, skipme=True)
        try:
            yield
        finally:
            admin.config_set("requirepass", PASSWORD)


@contextmanager
def restarting(site: Site) -> Iterator[None]:
    def restart() -> None:
        site.redis.stop()
        time.sleep(0.5)
        site.redis.start()

    with again_and_again(restart, every=1.5):
        yield


@contextmanager
def again_and_again(deed: Callable[[], Any], *, every: float) -> Iterator[None]:
    enough = threading.Event()

    def repeat() -> None:
        while not enough.is_set():
            deed()
            enough.wait(every)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


Fault = Callable[[Site], AbstractContextManager[None]]
# What /readyz says of Redis meanwhile.
STATES: list[tuple[Fault, set[str]]] = [
    (killed, {"unreachable"}),
    (stopped, {"unreachable"}),
    (slow, {"slow"}),
    (flushed, {"ok"}),
    (full, {"refusing"}),
    (wrong_password, {"refusing"}),
    (restarting, {"unreachable", "ok"}),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("shared"), redis_runs=True) as made:
        everything_works(made)
        assert eventually(lambda: states_told(made) == {"ok"})
        yield made


@pytest.mark.parametrize(
    ("fault", "states"), STATES, ids=[fault.__name__ for fault, _ in STATES]
)
def test_everything_works_meanwhile_and_it_recovers(
    shared: Site, fault: Fault, states: set[str]
) -> None:
    with fault(shared):
        talk = everything_works(shared)
        # A Redis that is well is slow for a moment where the machine is.
        assert eventually(lambda: states_told(shared) <= states)

    recovers(shared)
    still_there(shared, talk)
    logs_are_quiet(shared)


def test_it_may_be_absent_at_the_start(tmp_path: Path) -> None:
    with site(tmp_path, redis_runs=False) as made:
        talk = everything_works(made)
        assert states_told(made) == {"unreachable"}

        made.redis.start()

        recovers(made)
        still_there(made, talk)
        logs_are_quiet(made)


Talk = tuple[int, list[str]]


def everything_works(site: Site) -> Talk:
    """
    All that a user does, on two processes; every status is looked at.

    Returns the conversation, and what was said in it.
    """
    site.provider.reset()
    log_in(site)
    number = conversation(site.alice)
    said = [
        *ask(site, number),
        *ask_over_a_socket(site, number),
        *read_on_elsewhere(site, number),
    ]
    still_there(site, (number, said))
    upload(site.alice)
    return number, said


def test_a_slow_one_is_left_alone(shared: Site) -> None:
    talk = everything_works(shared)
    with slow(shared), shared.admin() as admin:
        assert states_told(shared) == {"slow"}
        before = lookups(admin)

        for _ in range(3):
            still_there(shared, talk)

        assert lookups(admin) == before
    recovers(shared)


def still_there(site: Site, talk: Talk) -> None:
    number, said = talk
    assert history(site.alice, number) == said
    assert history(site.elsewhere, number) == said


def log_in(site: Site) -> None:
    with site.here.client() as anonymous:
        wrong = anonymous.post(
            "/api/users/login", json={**ALICE, "password": "a wrong password"}
        )
        right = anonymous.post("/api/users/login", json=ALICE)
    assert (wrong.status_code, right.status_code) == (401, 200)


def conversation(client: httpx2.Client) -> int:
    body = {"title": "Rust", "model": "gpt-4o"}
    created = client.post("/api/conversations/create", json=body)
    assert created.status_code == 200, created.text
    return int(created.json()["conversation_id"])


def ask(site: Site, number: int) -> list[str]:
    site.provider.enqueue(Script(pieces=["over ", "HTTP"]))
    path = f"/api/chat/{number}"
    answer = site.alice.post(path, json={"message": "One?"}, headers=SSE)
    told = events_of(answer.text)
    assert answer.status_code == 200, answer.text
    assert told[-1].name == "done"
    assert text_of(told) == "over HTTP"
    return ["One?", "over HTTP"]


def ask_over_a_socket(site: Site, number: int) -> list[str]:
    site.provider.enqueue(Script(pieces=["over ", "a socket"]))
    token = site.alice.headers["Authorization"].removeprefix("Bearer ")
    url = f"ws://127.0.0.1:{site.here.port}/ws/chat/{number}"
    protocols = [Subprotocol("bearer"), Subprotocol(token)]
    with connect(url, subprotocols=protocols, proxy=None) as sock:
        sock.send('{"type":"message","message":"Two?"}')
        told: list[dict[str, Any]] = []
        while not told or told[-1]["event"] not in {"done", "error"}:
            told.append(json.loads(sock.recv(PATIENCE)))
    assert told[-1]["event"] == "done", told
    text = "".join(each["data"] for each in told if each["event"] == "message")
    assert text == "over a socket"
    return ["Two?", "over a socket"]


def read_on_elsewhere(site: Site, number: int) -> list[str]:
    """One process writes; the reader goes to the other and loses nothing."""
    held = Script(pieces=["here", " and ", "there"], stall_after=2)
    site.provider.enqueue(held)
    path = f"/api/chat/{number}"
    with site.alice.stream("POST", path, json={"message": "Three?"}, headers=SSE) as r:
        events = events_in(r.iter_lines())
        seen = [next(events), next(events)]
        headers = {**SSE, "Last-Event-ID": seen[-1].id}
        with site.elsewhere.stream("GET", f"{path}/stream", headers=headers) as other:
            rest = events_in(other.iter_lines())
            while text_of(seen) != "here and ":
                seen.append(next(rest))
            held.release.set()
            seen += list(rest)
    assert text_of(seen) == "here and there"
    assert seen[-1].name == "done"
    return ["Three?", "here and there"]


def history(client: httpx2.Client, number: int) -> list[str]:
    answer = client.get(f"/api/conversations/history/{number}")
    assert answer.status_code == 200, answer.text
    return [message["content"] for message in answer.json()["messages"]]


def upload(client: httpx2.Client) -> None:
    made = client.post("/api/rag/kb/create", json={"kb_name": "Notes"})
    assert made.status_code == 200, made.text
    answer = client.post(
        "/api/rag/doc/upload",
        data={"kb_id": made.json()["kb_id"]},
        files={"file": ("notes.txt", b"Swifts sleep on the wing.")},
    )
    assert answer.status_code == 200, answer.text


def states_told(site: Site) -> set[str]:
    """What /readyz says of Redis, which must be alive and say so in its status."""
    told = set()
    for client in (site.alice, site.elsewhere):
        answer = client.get("/readyz")
        redis = answer.json()["redis"]
        expected = "ok" if redis == "ok" else "degraded"
        assert (answer.status_code, answer.json()["status"]) == (200, expected)
        told.add(redis)
    return told


def recovers(site: Site) -> None:
    """Both processes use Redis again, with nobody asking after their health."""
    until = time.monotonic() + RECOVERS_WITHIN
    number = conversation(site.alice)
    said = ask(site, number)
    with site.admin() as admin:
        for client in (site.alice, site.elsewhere):
            before = lookups(admin)
            while lookups(admin) == before:
                assert time.monotonic() < until
                assert history(client, number) == said
                time.sleep(0.05)  # Who only asks takes the processor from who answers.
    assert eventually(lambda: states_told(site) == {"ok"})


def lookups(admin: Redis) -> int:
    stats = admin.info("stats")
    return int(stats["keyspace_hits"] + stats["keyspace_misses"])


def logs_are_quiet(site: Site) -> None:
    """At most a line in ten seconds, nothing but warnings, and no password."""
    for server in (site.here, site.there):
        log = server.log
        assert PASSWORD not in log
        assert "Traceback" not in log
        assert not re.search(r'HTTP/[\d.]+" 5\d\d|" 500 ', log)
        lines = [line for line in log.splitlines() if re.search("WARNING|ERROR", line)]
        lines = [line for line in lines if "The event loop was" not in line]
        assert all("Redis cannot be used" in line for line in lines), lines
        times = [datetime.fromisoformat(line[:23].replace(",", ".")) for line in lines]
        for before, after in pairwise(times):
            assert (after - before).total_seconds() >= BETWEEN_LOG_LINES - 0.1
