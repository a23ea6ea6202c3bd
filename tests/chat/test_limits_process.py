"""Limits are exact over processes, and nothing is left of one that died."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmbackend.config import Chat
from llmbackend.token_counts import tokens
from tests import fake_provider
from tests.fake_provider import FakeProvider, Script
from tests.served import ServeProcess, fake_section, serving

MOST, ASKED = 3, 12
FIRST = tokens(Chat.system_prompt) + tokens("Hi") + 1024
BUDGET = 2 * FIRST - 1
USAGE = "/api/users/me/usage"
# A user for each test, and the limits of that account.
LIMITED = {
    "minute": {"max_messages_per_minute": MOST},
    "answers": {"max_concurrent_answers": MOST},
    "day": {"max_tokens_per_day": MOST * FIRST + FIRST // 2},
    "month": {"max_tokens_per_month": MOST * FIRST},
    "all": {"max_concurrent_answers": MOST, "max_messages_per_minute": MOST + 1},
    "killed": {"max_concurrent_answers": 1, "max_tokens_per_day": BUDGET},
}
GRANT = "UPDATE accounts_user SET {column} = {limit} WHERE username = '{name}'"


@dataclass(frozen=True)
class Running:
    """Two server processes on the database of a directory, and their users' clients."""

    directory: Path
    config: dict[str, Any]
    servers: tuple[ServeProcess, ServeProcess]
    clients: dict[str, httpx2.Client]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with fake_provider.running() as running:
        yield running


@pytest.fixture
def provider(fake: FakeProvider) -> Iterator[FakeProvider]:
    fake.reset()
    yield fake
    fake.reset()


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("limits")
    config: dict[str, Any] = {"providers": fake_section(fake.base_url)}
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(serving(directory, **config)) for _ in range(2)
        )
        clients = {name: stack.enter_context(one.signed_in(name)) for name in LIMITED}
        for name, limits in LIMITED.items():
            for column, limit in limits.items():
                one.query(GRANT.format(column=column, limit=limit, name=name))
        yield Running(directory, config, (one, other), clients)


def new_conversation(client: httpx2.Client) -> int:
    body = {"title": "Rust", "model": "gpt-4o"}
    made = client.post("/api/conversations/create", json=body).json()
    return int(made["conversation_id"])


def limits_of(client: httpx2.Client) -> Any:
    return client.get(USAGE).json()["limits"]


@pytest.mark.parametrize("name", ["minute", "answers", "day", "month", "all"])
def test_of_many_questions_at_once_as_many_are_answered_as_may_be(
    running: Running, provider: FakeProvider, name: str
) -> None:
    provider.default = Script(stall_after=1)
    client = running.clients[name]
    paths = [f"/api/chat/{new_conversation(client)}" for _ in range(ASKED)]
    urls = [running.servers[n % 2].base_url + path for n, path in enumerate(paths)]

    def status(url: str) -> int:
        with client.stream("POST", url, json={"message": "Hi"}) as response:
            return response.status_code

    with ThreadPoolExecutor(ASKED) as pool:
        statuses = list(pool.map(status, urls))

    assert Counter(statuses) == {200: MOST, 429: ASKED - MOST}
    assert len(provider.requests) == MOST


def test_what_a_killed_process_had_set_aside_is_free_again(
    running: Running, provider: FakeProvider
) -> None:
    provider.enqueue(Script(stall_after=1))
    client = running.clients["killed"]
    other_path = f"/api/chat/{new_conversation(client)}"
    with serving(running.directory, **running.config) as third:
        url = f"{third.base_url}/api/chat/{new_conversation(client)}"
        with client.stream("POST", url, json={"message": "Hi"}) as response:
            next(response.iter_bytes())
            before = limits_of(client)
            third.process.kill()

    answer = client.post(other_path, json={"message": "Hi"})
    assert answer.status_code == 429
    # As a client does that believes what it is told.
    give_up_at = time.monotonic() + 30
    while answer.status_code == 429 and time.monotonic() < give_up_at:
        time.sleep(int(answer.headers["Retry-After"]))
        answer = client.post(other_path, json={"message": "Hi"})

    assert answer.status_code == 200
    assert before["concurrent_answers"]["remaining"] == 0
    assert before["tokens_per_day"]["remaining"] == FIRST - 1
    # It has cost the question and perhaps a piece, and the next 7 and 3.
    left = BUDGET - (FIRST - 1024) - 10
    assert limits_of(client)["tokens_per_day"]["remaining"] in {left, left - 1}
