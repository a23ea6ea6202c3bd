"""What requests and answers cost, counted: statements, hops, writes, encodings."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.request import Request as RestRequest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from accounts.tokens import Claims, claims_of, issue
from chat.answers import Answers, Reading
from chat.asks import Ask
from chat.encoders import SeedLines
from chat.events import Growth, Opening
from chat.hops import open_and_find_base, with_turn
from chat.live import LiveAnswer
from chat.reading import read_along
from conversations.asked import Question
from conversations.closing import Outcome, close_turn
from conversations.turns import Turn
from llmbackend import upstream
from llmbackend.commits import Commits
from llmbackend.rest import RestApplication
from llmbackend.threads import DatabaseThreads
from tests.chat.eventually import on_loop
from tests.conftest import Client, Served
from tests.fake_provider import FakeProvider, Script

WRITER = uuid.uuid4()
# Django says how a transaction begins and ends, too.
TRANSACTION = 2


def statements_of(work: Callable[[], object]) -> int:
    """How many statements `work` takes, once it has been done before."""
    work()
    with CaptureQueriesContext(connection) as captured:
        work()
    return len(captured)


def into(told: list[bytes]) -> Callable[[bytes], Coroutine[Any, Any, None]]:
    """What a reader sends with: it ends up in `told`."""

    async def send(frame: bytes) -> None:
        told.append(frame)

    return send


def claims(user: Any) -> Claims:
    return claims_of(issue(user))


@pytest.mark.parametrize(
    ("method", "path", "body", "statements"),
    [
        ("GET", "list", None, 2),
        ("GET", "list?limit=20", None, 2),
        ("GET", "history/{}", None, 3),
        ("POST", "create", {"title": "Rust", "model": "gpt-4o"}, 2 + TRANSACTION),
    ],
)
def test_statements_of_a_request(
    as_alice: Client, alice: Any, method: str, path: str, body: Any, statements: int
) -> None:
    conversation = as_alice.conversation()
    as_alice.ask(conversation, "Hi")
    threads: Any = None  # It answers on this one.
    rest = RestApplication(
        threads=threads,
        password_threads=threads,
        password_requests=(),
        passwords_at_once=1,
        commits=threads,
        small_writes=(),
        slow_paths=(),
        slow_at_once=1,
    )
    path, _, query = path.format(conversation).partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": f"/api/conversations/{path}",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {issue(alice)}".encode()),
        ],
    }
    content = b"" if body is None else json.dumps(body).encode()

    def request() -> None:
        status, _, _ = rest.respond(scope, io.BytesIO(content))
        assert status == 200

    assert statements_of(request) == statements


def test_statements_of_an_answer(as_alice: Client, alice: Any) -> None:
    ask = Ask(conversation_id=as_alice.conversation(), asked=Question("Hi"))
    opened: list[Turn] = []

    def begin_and_end() -> None:
        turn, _ = with_turn(
            open_and_find_base(claims=claims(alice), ask=ask, writer=WRITER)
        )
        assert isinstance(turn, Turn)
        opened.append(turn)
        end(turn)

    def end(turn: Turn) -> None:
        outcome = Outcome(
            status="complete",
            text="Hello!",
            reasoning="",
            prompt_tokens=7,
            completion_tokens=3,
        )
        assert close_turn(turn=turn, writer=WRITER, outcome=outcome)

    begin, finish = 8 + TRANSACTION, 3 + TRANSACTION
    # Where there are row locks, who ends an answer takes the conversation's first.
    lock = int(connection.features.has_select_for_update)
    assert statements_of(begin_and_end) == begin + lock + finish


class CountingThreads(DatabaseThreads):
    """Knows what was asked of it."""

    def __init__(self) -> None:
        super().__init__(name="counting", size=2, at_once=1, idle=1)
        self.asked: list[str] = []

    def submit(self, function: Any, done: Any) -> None:
        self.asked.append(function.func.__name__)
        super().submit(function, done)


def test_an_answer_takes_one_hop_before_and_one_after(
    server: Served, provider: FakeProvider, as_alice: Client, alice: Any
) -> None:
    provider.enqueue(Script(pieces=["Hel", "lo", "!"]))
    ask = Ask(conversation_id=as_alice.conversation(), asked=Question("Hi"))
    threads = CountingThreads()

    async def answer() -> list[str]:
        made = server.application
        answers = Answers(
            threads=threads,
            commits=Commits(threads),
            providers=made.providers,
            knowledge=made.knowledge,
        )
        await answers.start()
        del threads.asked[:]
        reading = await answers.begin(claims=claims(alice), ask=ask)
        await read_along(reading, SeedLines(), into([]))
        asked = list(threads.asked)
        await answers.drain(grace=5)
        await answers.aclose()
        return asked

    try:
        assert on_loop(server, answer()) == ["carry_out", "carry_out"]
    finally:
        threads.close()


def test_what_one_read_brings_is_one_write(
    server: Served, provider: FakeProvider, as_alice: Client, alice: Any
) -> None:
    pieces = [f"{number} " for number in range(50)]
    provider.enqueue(Script(body=b"".join(Script(pieces=pieces).events())))
    path = f"/api/chat/{as_alice.conversation()}"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", f"Bearer {issue(alice)}".encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[bytes] = []

    async def request() -> None:
        heard = iter([{"type": "http.request", "body": b'{"message": "Hi"}'}])

        async def receive() -> Any:
            message = next(heard, None)
            return message or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message.get("body"):
                sent.append(message["body"])

        await server.application(scope, receive, send)

    on_loop(server, request())

    assert len(sent) == 2
    told = json.loads(sent[0])
    assert told == {"event": "message", "data": "".join(pieces)}
    assert b'"full_response"' in sent[1]


class CountingLines(SeedLines):
    """Knows what it encoded."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def growth(self, growth: Growth) -> bytes:
        self.encoded.append(growth.text)
        return super().growth(growth)


async def test_a_piece_is_encoded_once_for_all_who_stand_at_the_same_place() -> None:
    answer = LiveAnswer(
        pk=2,
        opening=Opening(
            conversation_id=7, question_id=1, message_id=2, model="m", provider="p"
        ),
    )
    lines = CountingLines()

    async def read() -> bytes:
        told: list[bytes] = []
        end = await read_along(Reading(answer, answer.start), lines, into(told))
        return b"".join([*told, end or b""])

    readers = [asyncio.create_task(read()) for _ in range(20)]
    pieces = ["Hel", "lo", " there"]
    for piece in pieces:
        answer.grow(text=piece, reasoning="")
        # Every reader takes it and waits for more.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    answer.end(status="complete")
    heard = await asyncio.gather(*readers)

    assert lines.encoded == pieces
    assert len(set(heard)) == 1
    assert b'"Hello there"' in heard[0]


@pytest.mark.parametrize(
    ("method", "path", "kinds"),
    [
        ("GET", "/api/conversations/list", (RequestResponseCycle, RestRequest)),
        ("GET", "/api/no/such", (RequestResponseCycle,)),
        ("POST", "/api/chat/{}", (RequestResponseCycle, LiveAnswer, upstream.Response)),
    ],
)
def test_a_request_is_no_garbage_of_the_server(
    as_alice: Client, method: str, path: str, kinds: tuple[type, ...]
) -> None:
    """Its memory is given back once it is answered, not at some collection."""
    path = path.format(as_alice.conversation())

    def ask() -> None:
        as_alice.request(method, path, json={"message": "Hi"})

    def left() -> int:
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    ask()
    gc.collect()
    gc.disable()
    try:
        before = left()
        for _ in range(20):
            ask()
        # The last one may not have come to its end.
        assert left() <= before + len(kinds)
    finally:
        gc.enable()
