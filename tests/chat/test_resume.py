"""Whoever is cut off, wherever, comes back and has the whole answer, to the letter."""

from __future__ import annotations

import logging
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from threading import Event as Flag
from typing import Any

import httpx2
import pytest
import redis as redis_client

from chat.event_ids import position
from conversations.models import Message
from tests import fake_provider, redis_server
from tests.chat.eventually import eventually
from tests.chat.sockets import socket_of
from tests.chat.streams import SSE, Event, events_in, events_of, reasoning_of, text_of
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE
from tests.redis_server import RedisServer
from tests.served import ServeProcess, fake_section, serving

logger = logging.getLogger(__name__)

WAYS_BACK = ("get", "post", "rag", "socket")
# Each piece ends where a careless cut would tear a character: before a combining
# mark, within a family, a flag or a syllable, between text and reasoning.
THOUGHTS = ["Let me ", "想一想", "e", "\u0301", "👩‍", "👧 "]
SYLLABLES = ["न", "ि ", "각", "\u0301"]
WORDS = ["Gru\u0308", "ße, ", "世", "界 ", "👨‍👩", "‍👦", "🇩", "🇪 ", *SYLLABLES]
AFTERTHOUGHTS = ["嗯", "🤔"]
LAST = [" 𝒳", "\u200d", "🏳", "️‍🌈"]


def thought(text: str) -> Any:
    return chunk({"reasoning_content": text})


def chunk(delta: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def spoken(text: str) -> Any:
    return chunk({"content": text})


CHUNKS = [
    *map(thought, THOUGHTS),
    *map(spoken, WORDS),
    *map(thought, AFTERTHOUGHTS),
    *map(spoken, LAST),
]
TEXT = "".join([*WORDS, *LAST])
REASONING = "".join([*THOUGHTS, *AFTERTHOUGHTS])
UNTIL_LATE = len(CHUNKS) - 2
TEXT_UNTIL_LATE = "".join([*WORDS, *LAST[:2]])


def difficult(**how: Any) -> Script:
    """An answer whose pieces are told one by one."""
    return Script(**{"pieces": (), "chunks": CHUNKS, "pause": 0.02, **how})


@dataclass
class Reader:
    """Who comes back after `seen`; `started` when the server has let it in."""

    way: str
    seen: list[Event]
    started: Flag = field(default_factory=Flag)

    @property
    def last_event_id(self) -> str:
        return self.seen[-1].id if self.seen else ""

    def read(self, client: httpx2.Client, conversation: int) -> list[Event]:
        """What it is told to the end; [] where there is nothing to be told."""
        told: list[Event] = []
        with self._opened(client, conversation) as events:
            for event in events:
                self.started.set()
                told.append(event)
        return [] if [event.name for event in told] == ["idle"] else told

    @contextmanager
    def _opened(
        self, client: httpx2.Client, conversation: int
    ) -> Iterator[Iterator[Event]]:
        if self.way == "socket":
            with socket_of(client, conversation) as socket:
                socket.send("resume", last_event_id=self.last_event_id)
                yield socket.events()
            return
        method, path = {
            "get": ("GET", f"/api/chat/{conversation}/stream"),
            "post": ("POST", f"/api/chat/{conversation}"),
            "rag": ("POST", "/api/rag/chat"),
        }[self.way]
        body = {"message": "Hi", "conversation_id": conversation}
        headers = {**SSE, "Last-Event-ID": self.last_event_id}
        with client.stream(
            method,
            path,
            json=body if method == "POST" else None,
            headers=headers if self.last_event_id else SSE,
        ) as response:
            assert response.status_code in {200, 204}, response.read()
            yield events_in(response.iter_lines())


def is_whole(
    seen: Sequence[Event],
    rest: Sequence[Event],
    *,
    text: str = TEXT,
    reasoning: str = REASONING,
) -> bool:
    """Whether the two parts are the answer, with ids that rise and with one end."""
    told = [*seen, *rest]
    assert text_of(told) == text
    assert reasoning_of(told) == reasoning
    if seen and rest:
        assert rest[0].id == seen[-1].id
    places = [position(e.id) for e in told if e.id and e.name != "started"]
    steps = [(p.cursor.reasoning, p.cursor.text, p.ended) for p in places]
    for before, after in pairwise(steps):
        assert before != after
        assert all(x <= y for x, y in zip(before, after, strict=True))
    assert [e.name for e in told if e.name in {"done", "error"}] == ["done"]
    return told[-1].name == "done"


def cut_everywhere(
    *,
    conversation: int,
    provider: FakeProvider,
    asked: httpx2.Client,
    read: httpx2.Client,
) -> None:
    """
    Ask by one client, and while it is answered come back by another, in every way
    and after every event; then the same once it has ended.
    """
    held = difficult(stall_after=UNTIL_LATE)
    provider.enqueue(held)
    told: list[Event] = []
    coming: list[tuple[Reader, Future[list[Event]]]] = []
    path = f"/api/chat/{conversation}"
    with (
        ThreadPoolExecutor(len(CHUNKS) * len(WAYS_BACK)) as pool,
        asked.stream("POST", path, json={"message": "Hi"}, headers=SSE) as response,
    ):
        events = events_in(response.iter_lines())
        while (text_of(told), reasoning_of(told)) != (TEXT_UNTIL_LATE, REASONING):
            told.append(next(events))
            for way in WAYS_BACK if told[-1].id else ():
                reader = Reader(way, list(told))
                rest = pool.submit(reader.read, read, conversation)
                coming.append((reader, rest))
        assert all(reader.started.wait(PATIENCE) for reader, _ in coming)
        held.release.set()
        told += events
        parts = [(reader, rest.result()) for reader, rest in coming]

    assert is_whole([], told)
    assert len(parts) >= len(WAYS_BACK) * UNTIL_LATE / 2
    assert all(is_whole(reader.seen, rest) for reader, rest in parts)
    cut_after_its_end(told, conversation=conversation, read=read)


def cut_after_its_end(
    told: Sequence[Event], *, conversation: int, read: httpx2.Client
) -> None:
    for number, event in enumerate(told, start=1):
        if not event.id:
            continue
        for way in WAYS_BACK:
            reader = Reader(way, list(told[:number]))
            rest = reader.read(read, conversation)
            assert rest == [] if number == len(told) else is_whole(reader.seen, rest)


def test_every_cut_can_be_mended_in_one_process(
    as_alice: Client, provider: FakeProvider, server: Served
) -> None:
    conversation = as_alice.conversation()

    cut_everywhere(
        conversation=conversation, provider=provider, asked=as_alice, read=as_alice
    )

    stored = Message.objects.get(number=2)
    assert (stored.content, stored.reasoning) == (TEXT, REASONING)
    assert len(provider.requests) == 1
    until_idle(server)


@dataclass
class Two:
    """Two processes on one database: a question goes to one, readers to the other."""

    asked: httpx2.Client
    read: httpx2.Client
    provider: FakeProvider
    server: ServeProcess
    redis: RedisServer | None

    def conversation(self) -> int:
        body = {"title": "Rust", "model": "gpt-4o"}
        created = self.asked.post("/api/conversations/create", json=body)
        return int(created.raise_for_status().json()["conversation_id"])

    def use_redis_again(self) -> bool:
        """Have both processes try it, whatever happened before; whether it is there."""
        answers = [client.get("/readyz").json() for client in (self.asked, self.read)]
        return all(answer["redis"] == "ok" for answer in answers)

    def logs(self) -> str:
        """The last that both processes had to say."""
        logs = sorted(self.server.directory.glob("*-log"))
        return "\n\n".join(log.read_text()[-4000:] for log in logs)

    def stored(self, conversation: int) -> list[tuple[str, str, str]]:
        """(status, text, reasoning) of the answers of a conversation."""
        return self.server.query(
            "SELECT status, content, reasoning FROM conversations_message"  # noqa: S608
            f" WHERE role = 'assistant' AND conversation_id = {conversation:d}"
            " ORDER BY id"
        )


@contextmanager
def two_processes(directory: Path, *, with_redis: bool) -> Iterator[Two]:
    with ExitStack() as stack:
        provider = stack.enter_context(fake_provider.running())
        config: dict[str, Any] = {"providers": fake_section(provider.base_url)}
        redis = stack.enter_context(redis_server.running()) if with_redis else None
        if redis is not None:
            config["redis"] = {"address": redis.address}
        one, other = (
            stack.enter_context(serving(directory, **config)) for _ in range(2)
        )
        asked = stack.enter_context(one.signed_in())
        read = other.client(headers={"Authorization": asked.headers["Authorization"]})
        stack.enter_context(read)
        yield Two(asked, read, provider, one, redis)


@pytest.fixture(scope="module", params=["database", "redis"])
def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Two]:
    with_redis = request.param == "redis"
    if with_redis:
        redis_server.require_redis()
    directory = tmp_path_factory.mktemp("two")
    with two_processes(directory, with_redis=with_redis) as two:
        yield two


def test_every_cut_can_be_mended_in_another_process(two: Two) -> None:
    conversation = two.conversation()
    asked = len(two.provider.requests)

    cut_everywhere(
        conversation=conversation,
        provider=two.provider,
        asked=two.asked,
        read=two.read,
    )

    assert two.stored(conversation) == [("complete", TEXT, REASONING)]
    assert len(two.provider.requests) == asked + 1


# Generous: with Redis text is pushed ten times a second, into the database it gets
# within a second, from where it is read four times a second.
QUICK, BEHIND = 0.4, 3.0
SLOWLY = [f"{n}é😀 " for n in range(50)]


@dataclass
class Ear:
    """When how many code points of text were heard; the end counts as one more."""

    heard: list[tuple[float, int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        self.events.append(event)
        length = self.heard[-1][1] if self.heard else 0
        if event.name in {"message", "done"}:
            more = len(event.data) if event.name == "message" else 1
            self.heard.append((time.monotonic(), length + more))

    def has_heard(self, pieces: int) -> bool:
        return len(self.heard) >= pieces

    def lateness(self, other: Ear) -> list[float]:
        """Seconds after `other` at which each of its pieces was here."""
        return [
            next(at for at, have in self.heard if have >= length) - told_at
            for told_at, length in other.heard
        ]


@contextmanager
def followed_slowly(two: Two, conversation: int) -> Iterator[tuple[Ear, Ear]]:
    """
    An answer of two seconds, heard by its asker and by a reader in the other process;
    the block is run while they hear it.
    """
    two.provider.enqueue(Script(pieces=SLOWLY, pause=0.05))
    asker, reader = Ear(), Ear()
    path = f"/api/chat/{conversation}"

    def read() -> None:
        with two.read.stream("GET", f"{path}/stream", headers=SSE) as response:
            for event in events_in(response.iter_lines()):
                reader.hear(event)

    def ask(events: Iterator[Event]) -> None:
        for event in events:
            asker.hear(event)

    with (
        ThreadPoolExecutor(2) as pool,
        two.asked.stream("POST", path, json={"message": "Hi"}, headers=SSE) as response,
    ):
        events = events_in(response.iter_lines())
        asker.hear(next(events))
        both = [pool.submit(read), pool.submit(ask, events)]
        yield asker, reader
        for each in both:
            each.result(PATIENCE)


def test_a_reader_elsewhere_is_a_second_behind_and_with_redis_hardly(two: Two) -> None:
    def is_as_close_as_it_should_be() -> bool:
        with followed_slowly(two, two.conversation()) as (asker, reader):
            pass
        late = reader.lateness(asker)
        median, worst = statistics.median(late), max(late)
        by = "Redis" if two.redis else "the database"
        logger.info("Behind by %s: %.2f s, at worst %.2f s", by, median, worst)
        assert text_of(reader.events) == text_of(asker.events) == "".join(SLOWLY)
        if two.redis and max(median, late[-1]) > QUICK:
            return False
        return worst < BEHIND

    # A busy machine may be late at one of them.
    assert eventually(is_as_close_as_it_should_be, PATIENCE)


def test_ten_posts_with_one_key_to_two_processes_are_one_question(two: Two) -> None:
    conversation = two.conversation()
    asked = len(two.provider.requests)
    two.provider.enqueue(difficult())
    headers = {**SSE, "Idempotency-Key": f"key of {conversation}"}

    def ask(client: httpx2.Client) -> httpx2.Response:
        body = {"message": "Hi"}
        return client.post(f"/api/chat/{conversation}", json=body, headers=headers)

    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(ask, [two.asked, two.read] * 5))

    assert {response.status_code for response in responses} == {200}
    assert all(is_whole([], events_of(response.text)) for response in responses)
    assert two.stored(conversation) == [("complete", TEXT, REASONING)]
    assert len(two.provider.requests) == asked + 1
    history = two.read.get(f"/api/conversations/history/{conversation}").json()
    assert [m["role"] for m in history["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("two", ["redis"], indirect=True)
def test_redis_is_told_only_of_what_is_followed_elsewhere(two: Two) -> None:
    assert two.redis is not None
    assert two.use_redis_again()
    flush(two.redis)
    alone = two.conversation()
    two.provider.enqueue(Script(pieces=SLOWLY[:20], pause=0.05))
    told = two.asked.post(f"/api/chat/{alone}", json={"message": "Hi"}, headers=SSE)
    assert text_of(events_of(told.text)) == "".join(SLOWLY[:20])
    assert answers_in(two.redis) == 0

    with followed_slowly(two, two.conversation()):
        assert eventually(lambda: answers_in(two.redis) == 1)


def answers_in(redis: RedisServer | None) -> int:
    assert redis is not None
    with redis_client.Redis(port=redis.port) as client:
        return len(client.keys("llmbackend:live:*"))


def is_in_use(redis: RedisServer) -> bool:
    """Whether one process tells Redis of an answer, and another listens."""
    with redis_client.Redis(port=redis.port) as client:
        told = client.keys("llmbackend:live:*")
        return bool(told and set(told) & set(client.pubsub_channels()))


def flush(redis: RedisServer) -> None:
    with redis_client.Redis(port=redis.port) as client:
        client.flushall()


def freeze(redis: RedisServer) -> None:
    redis.process.send_signal(signal.SIGSTOP)


FAULTS: dict[str, list[Callable[[RedisServer], None]]] = {
    "flushed": [flush, flush],
    "killed": [RedisServer.stop],
    "killed and started again": [RedisServer.stop, RedisServer.start],
    "frozen": [freeze],
}


@pytest.mark.parametrize("two", ["redis"], indirect=True)
@pytest.mark.parametrize("deeds", FAULTS.values(), ids=FAULTS)
def test_the_text_is_exact_whatever_becomes_of_redis(
    two: Two, deeds: list[Callable[[RedisServer], None]]
) -> None:
    assert two.redis is not None
    assert two.use_redis_again()
    conversation = two.conversation()
    parts: list[tuple[Reader, Future[list[Event]]]] = []
    with (
        followed_slowly(two, conversation) as (asker, reader),
        ThreadPoolExecutor(8) as pool,
    ):
        for number, deed in enumerate(deeds, start=1):
            assert eventually(partial(asker.has_heard, 10 * number))
            assert number > 1 or eventually(partial(is_in_use, two.redis))
            deed(two.redis)
            for way in WAYS_BACK:
                back = Reader(way, list(asker.events))
                parts.append((back, pool.submit(back.read, two.read, conversation)))
    two.redis.stop()
    two.redis.start()

    assert max(reader.lateness(asker)) < BEHIND
    whole = {"text": "".join(SLOWLY), "reasoning": ""}
    assert is_whole([], reader.events, **whole)
    assert all(is_whole(back.seen, rest.result(), **whole) for back, rest in parts)
    assert two.stored(conversation) == [("complete", "".join(SLOWLY), "")]


@pytest.mark.parametrize("two", ["redis"], indirect=True)
def test_who_comes_first_after_redis_was_emptied_misses_nothing(two: Two) -> None:
    """Redis has the later pieces only, and the database not yet all before them."""
    assert two.redis is not None
    assert two.use_redis_again()
    conversation = two.conversation()
    two.provider.enqueue(Script(pieces=SLOWLY, pause=0.05))
    told: list[Event] = []
    path = f"/api/chat/{conversation}"
    with (
        ThreadPoolExecutor(2) as pool,
        two.asked.stream("POST", path, json={"message": "Hi"}, headers=SSE) as response,
    ):
        events = events_in(response.iter_lines())
        told += islice(events, 20)
        flush(two.redis)
        told += islice(events, 4)
        readers = [Reader("get", []), Reader("socket", list(told))]
        parts = [pool.submit(each.read, two.read, conversation) for each in readers]
        told += events

    whole = {"text": "".join(SLOWLY), "reasoning": ""}
    for reader, rest in zip(readers, parts, strict=True):
        assert is_whole(reader.seen, rest.result(), **whole)


@pytest.mark.parametrize("two", ["redis"], indirect=True)
def test_a_redis_that_comes_back_is_used_again(two: Two) -> None:
    assert two.redis is not None
    with followed_slowly(two, two.conversation()):
        two.redis.stop()
    two.redis.start()

    def is_quick() -> bool:
        with followed_slowly(two, two.conversation()) as (asker, reader):
            pass
        return statistics.median(reader.lateness(asker)) < QUICK

    assert eventually(is_quick, PATIENCE), two.logs()
