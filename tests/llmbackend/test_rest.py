"""Which threads answer a request, and who comes next."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest

from llmbackend.commits import Commits
from llmbackend.rest import RestApplication
from llmbackend.threads import DatabaseThreads
from tests.conftest import PASSWORD, make_user
from tests.patience import PATIENCE

LOGIN = "/api/users/login"


@pytest.fixture
def threads(database: None) -> Iterator[DatabaseThreads]:
    """The one thread for all but passwords."""
    threads = DatabaseThreads(name="database", size=1, at_once=1, idle=0)
    yield threads
    threads.close()


@pytest.fixture
def rest(threads: DatabaseThreads) -> Iterator[RestApplication]:
    """With one thread for passwords, too, and Alice in the database."""
    make_user("alice")
    password_threads = DatabaseThreads(name="password", size=1, at_once=1, idle=0)
    yield RestApplication(
        threads=threads,
        password_threads=password_threads,
        password_requests=[f"POST {LOGIN}"],
        passwords_at_once=1,
        commits=Commits(threads),
        small_writes=[],
        slow_paths=[],
        slow_at_once=1,
    )
    password_threads.close()


async def ask(
    rest: RestApplication,
    *,
    path: str = LOGIN,
    method: str = "POST",
    client: str = "198.51.100.1",
    password: str = PASSWORD,
) -> int:
    """The status of one request."""
    body = json.dumps({"username": "alice", "password": password}).encode()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "client": (client, 0),
        "headers": [(b"host", b"localhost")],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await rest(scope, receive, send)
    return int(sent[0]["status"])


class Hashing:
    """Every password hash waits for `gate`, and is noted."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.passwords: list[bytes] = []
        self._original = bcrypt.hashpw

    def __call__(self, password: bytes, salt: bytes) -> bytes:
        self.passwords.append(password)
        assert self.gate.wait(PATIENCE)
        return self._original(password, salt)


@pytest.fixture
def hashing(monkeypatch: Any) -> Iterator[Hashing]:
    hashing = Hashing()
    monkeypatch.setattr(bcrypt, "hashpw", hashing)
    yield hashing
    hashing.gate.set()


async def test_a_log_in_comes_before_what_another_client_still_has_to_try(
    rest: RestApplication, hashing: Hashing
) -> None:
    wrong = {"client": "203.0.113.9", "password": "wrong password"}
    flood = [asyncio.create_task(ask(rest, **wrong)) for _ in range(20)]
    await asyncio.sleep(0)
    login = asyncio.create_task(ask(rest))
    await asyncio.sleep(0)

    hashing.gate.set()
    statuses = await asyncio.gather(*flood, login)

    assert statuses[-1] == 200
    right = hashlib.sha256(PASSWORD.encode()).hexdigest().encode()
    assert hashing.passwords.index(right) == 1


async def test_a_client_tries_as_many_at_once_as_there_are_threads(
    rest: RestApplication, hashing: Hashing
) -> None:
    hashing.gate.set()

    statuses = await asyncio.gather(*(ask(rest) for _ in range(5)))

    assert statuses == [200] * 5


async def test_passwords_delay_nothing_else_not_even_on_their_own_path(
    rest: RestApplication, hashing: Hashing
) -> None:
    logins = [asyncio.create_task(ask(rest)) for _ in range(3)]
    await asyncio.sleep(0)

    assert await ask(rest, path="/healthz", method="GET") == 200
    assert await ask(rest, method="GET") == 405
    assert not any(login.done() for login in logins)

    hashing.gate.set()
    assert await asyncio.gather(*logins) == [200] * 3


@pytest.mark.parametrize(("path", "status"), [("/healthz/", 200), ("/metrics", 404)])
async def test_what_asks_no_database_does_not_wait_for_who_does(
    rest: RestApplication, threads: DatabaseThreads, path: str, status: int
) -> None:
    gate = threading.Event()
    waiting = asyncio.create_task(threads.run(gate.wait, PATIENCE))
    await asyncio.sleep(0)

    answered = await ask(rest, path=path, method="GET")
    was_waiting = not waiting.done()
    gate.set()
    await waiting

    assert (answered, was_waiting) == (status, True)
