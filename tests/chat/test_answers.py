"""Writers and their ticker, in the running server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from accounts.models import User
from accounts.tokens import claims_of, issue
from chat.answers import Answers, Reading
from chat.asks import Ask, Watch
from conversations.asked import Question
from conversations.models import Message, Writer
from llmbackend.commits import Commits
from llmbackend.threads import DatabaseThreads
from tests.chat.eventually import eventually, on_loop
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import ENDLESSLY, FakeProvider, Script


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


@contextmanager
def half_an_answer(
    client: Client, conversation: int, provider: FakeProvider
) -> Iterator[tuple[Script, Iterator[str]]]:
    """An answer that has said "Hel" and waits; its script, and the lines to come."""
    script = provider.default = Script(pieces=["Hel", "lo"], stall_after=1)
    path = f"/api/chat/{conversation}"
    with client.stream("POST", path, json={"message": "Hi"}) as response:
        lines = response.iter_lines()
        next(lines)
        yield script, lines


def test_question_and_empty_answer_are_stored_before_the_provider_is_asked(
    as_alice: Client, conversation: int, provider: FakeProvider
) -> None:
    script = provider.default = Script(stall_at_headers=True)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(as_alice.ask, conversation, "Hi")
        assert provider.wait_until(lambda: bool(provider.requests))

        rows = Message.objects.order_by("number")
        stored = list(rows.values_list("role", "content", "status"))

        script.release.set()
        assert asking.result().status_code == 200
    assert stored == [("user", "Hi", "complete"), ("assistant", "", "streaming")]


def test_what_grew_is_stored_while_the_provider_still_talks(
    as_alice: Client, conversation: int, provider: FakeProvider
) -> None:
    with half_an_answer(as_alice, conversation, provider):
        assert eventually(
            lambda: Message.objects.filter(content="Hel", status="streaming").exists()
        )


def test_the_writers_heart_beats_while_it_writes(
    as_alice: Client, conversation: int, provider: FakeProvider, served: Served
) -> None:
    with half_an_answer(as_alice, conversation, provider):
        mine = Writer.objects.filter(pk=served.application.answers.writer)
        first = mine.get().heartbeat_at

        assert eventually(lambda: mine.get().heartbeat_at > first)


def test_a_writer_whose_answer_was_taken_stops_without_a_word(
    as_alice: Client, conversation: int, provider: FakeProvider, served: Served
) -> None:
    with half_an_answer(as_alice, conversation, provider) as (_, lines):
        Message.objects.filter(status="streaming").update(
            status="interrupted", writer=None, content="What the taker stored"
        )
        rest = list(lines)

    assert '"event":"error"' in "".join(rest)
    assert provider.wait_until(lambda: provider.answering == 0)
    until_idle(served)
    assert Message.objects.get(number=2).content == "What the taker stored"


def test_a_stop_that_another_process_asked_for_is_found_within_a_second(
    as_alice: Client, conversation: int, provider: FakeProvider
) -> None:
    with half_an_answer(as_alice, conversation, provider) as (_, lines):
        asked_at = time.monotonic()
        Message.objects.filter(status="streaming").update(stop_requested=True)
        rest = list(lines)

    assert '"event":"done"' in "".join(rest)
    assert provider.wait_until(lambda: provider.answering == 0)
    left_at = provider.requests[-1].client_left_at
    assert left_at is not None
    assert left_at - asked_at < 1.0
    assert as_alice.history(conversation)[-1]["status"] == "stopped"


def test_an_answer_a_dead_process_left_is_interrupted_at_the_next_send(
    as_alice: Client, conversation: int
) -> None:
    left_by_a_dead_process(conversation)

    assert as_alice.ask(conversation, "Again?").status_code == 200

    history = as_alice.history(conversation)
    assert [m.get("status") for m in history] == [None, "interrupted", None, None]
    assert history[1]["content"] == "Hel"


def test_an_answer_a_dead_process_left_is_interrupted_at_the_next_read(
    as_alice: Client, conversation: int
) -> None:
    left_by_a_dead_process(conversation)

    assert as_alice.history(conversation)[1]["status"] == "interrupted"


def test_another_process_ends_what_a_dead_one_left(
    as_alice: Client, conversation: int
) -> None:
    left_by_a_dead_process(conversation)

    assert eventually(lambda: Message.objects.filter(status="interrupted").exists())


def test_an_answer_of_a_living_process_is_left_alone(
    as_alice: Client, conversation: int
) -> None:
    left_by_a_dead_process(conversation, silent=timedelta(seconds=3))

    assert as_alice.ask(conversation, "Again?").status_code == 409
    assert as_alice.history(conversation)[1]["status"] == "streaming"


def left_by_a_dead_process(
    conversation: int, *, silent: timedelta = timedelta(seconds=7)
) -> None:
    """Rows as a process leaves them that was killed in the middle of an answer."""
    from conversations.models import Conversation

    writer = Writer.objects.create(host="gone", pid=1, heartbeat_at=Now() - silent)
    question = Message.objects.create(
        conversation_id=conversation,
        number=1,
        role="user",
        content="Hi",
        created_at=Now(),
    )
    answer = Message.objects.create(
        conversation_id=conversation,
        number=2,
        parent=question,
        role="assistant",
        content="Hel",
        status="streaming",
        writer=writer,
        created_at=Now(),
    )
    Conversation.objects.filter(pk=conversation).update(active_leaf=answer)


def test_what_nobody_writes_any_more_is_ended_also_while_its_process_lives(
    as_alice: Client, conversation: int, provider: FakeProvider, server: Served
) -> None:
    left = as_alice.conversation()
    as_alice.ask(left, "Hi")
    # As it is when its end could not be stored.
    writer = server.application.answers.writer
    Message.objects.filter(number=2).update(status="streaming", writer=writer)
    provider.default = Script(
        pieces=["."],
        finish_reason=None,
        usage=None,
        done=False,
        pause=0.1,
        repeats=ENDLESSLY,
    )
    path = f"/api/chat/{conversation}"

    with as_alice.stream("POST", path, json={"message": "Hi"}) as response:
        next(response.iter_bytes())
        answers = Message.objects.filter(number=2)
        ended = eventually(
            lambda: answers.get(conversation=left).status == "interrupted", 20
        )
        going_on = answers.get(conversation=conversation).status

    as_alice.post(f"{path}/stop")
    assert ended
    assert going_on == "streaming"


class Late(Commits):
    """Says that something is committed a while after it was."""

    def __init__(self, threads: DatabaseThreads) -> None:
        super().__init__(threads)
        self.committed, self.may_be_told = asyncio.Event(), asyncio.Event()

    async def run(self, *work: Any) -> Any:
        result = await super().run(*work)
        self.committed.set()
        await self.may_be_told.wait()
        return result


class Seen(DatabaseThreads):
    """Lets `late` go on when a reader has looked for an answer."""

    late: Late

    async def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        result = await super().run(function, *args, **kwargs)
        if function.__name__ == "find_answer":
            self.late.may_be_told.set()
        return result


def test_who_comes_while_a_question_is_committed_reads_what_is_written_here(
    as_alice: Client, conversation: int, alice: User, served: Served
) -> None:
    claims = claims_of(issue(alice))
    threads = Seen(name="late", size=2, at_once=1, idle=1)
    threads.late = late = Late(threads)

    async def begin_and_watch() -> tuple[Reading, Reading | None]:
        made = served.application
        answers = Answers(
            threads=threads,
            commits=late,
            providers=made.providers,
            knowledge=made.knowledge,
        )
        await answers.start()
        ask = Ask(conversation_id=conversation, asked=Question("Hi"))
        asking = asyncio.create_task(answers.begin(claims=claims, ask=ask))
        await late.committed.wait()
        watch = Watch(conversation_id=conversation)
        watching = await answers.watch(claims=claims, watch=watch)
        asked = await asking
        await answers.drain(grace=5)
        await answers.aclose()
        return asked, watching

    try:
        asked, watching = on_loop(served, begin_and_watch())
    finally:
        threads.close()
    assert watching is not None
    assert watching.answer is asked.answer
