"""What a user may ask: counted before an answer begins, settled when it ends."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx2
import pytest
from django.conf import settings as project
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Tally, User
from conversations.asked import Question
from conversations.models import Message, Usage
from conversations.turns import open_turn
from conversations.writers import interrupt_orphans
from llmbackend.token_counts import tokens
from tests.chat.eventually import eventually
from tests.chat.sockets import socket_of
from tests.chat.streams import SSE, Event, events_of
from tests.conftest import Client, make_user
from tests.conversations.conftest import make_conversation, make_writer
from tests.fake_provider import FakeProvider, Script, refusal
from tests.rag.embeddings import make_base

pytestmark = pytest.mark.usefixtures("same_hour")

PATH = "/api/users/me/usage"
DAY, MONTH = "tokens_per_day", "tokens_per_month"
CUT: dict[str, Any] = {"pieces": ["Once"], "finish_reason": "length"}


def limit(settings: Any, **limits: int) -> None:
    changed = replace(settings.CONFIG.limits, **limits)
    settings.CONFIG = replace(settings.CONFIG, limits=changed)


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


@pytest.fixture
def first() -> int:
    """What is set aside for the question "Hi" that nothing was said before."""
    return tokens(project.CONFIG.chat.system_prompt) + tokens("Hi") + 1024


def seconds(response: httpx2.Response) -> int:
    return int(response.headers["Retry-After"])


def refused(response: httpx2.Response, name: str, *, status: int = 429) -> Any:
    """The body of an answer that a limit of this name forbade."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["limit"] == name
    assert body["code"] == ("limit_reached" if status == 429 else "quota_exceeded")
    if status == 429:
        assert body["retry_after"] == seconds(response)
    return body


def usage_of(response: httpx2.Response) -> Any:
    return next(e.data for e in events_of(response.text) if e.name == "usage")


@contextmanager
def being_written(
    client: Client, conversation: int, provider: FakeProvider
) -> Iterator[Script]:
    """While an answer is: the script it waits in; returns when it has ended."""
    script = Script(pieces=["Hel", "lo"], stall_after=1)
    provider.enqueue(script)
    path = f"/api/chat/{conversation}"
    with client.stream("POST", path, json={"message": "Hi"}) as response:
        assert response.status_code == 200
        next(response.iter_bytes())
        yield script
        script.release.set()
    until_idle()


def spend(alice: User, spent: int, day: date | None = None) -> None:
    today = datetime.now(UTC).date()
    row = {"owner": alice, "day": day or today, "model": "gpt-4o", "answers": 1}
    Usage.objects.create(**row, prompt_tokens=spent)


# Every way to an answer, after one that broke off for want of room.
WAYS: dict[str, Callable[[Client, int, str], Any]] = {
    "message": lambda client, pk, base: client.ask(pk, "Hi"),
    "regenerate": lambda c, pk, base: c.post(f"/api/chat/{pk}/regenerate", json={}),
    "continue": lambda c, pk, base: c.post(f"/api/chat/{pk}/continue", json={}),
    "edit": lambda client, pk, base: client.post(
        f"/api/chat/{pk}/edit", json={"message_id": 1, "message": "Hello"}
    ),
    "grounded": lambda client, pk, base: client.post(
        f"/api/chat/{pk}", json={"message": "Hi", "kb_id": base}
    ),
    "rag": lambda client, pk, base: client.post(
        "/api/rag/chat", json={"conversation_id": pk, "message": "Hi", "kb_id": base}
    ),
}
every_way = pytest.mark.parametrize("way", WAYS)


class TestMessagesPerMinute:
    def test_one_too_many_waits_for_the_end_of_the_minute(
        self, as_alice: Client, conversation: int, provider: FakeProvider, settings: Any
    ) -> None:
        limit(settings, messages_per_minute=2)
        for _ in range(2):
            assert as_alice.ask(conversation, "Hi").status_code == 200

        response = as_alice.ask(conversation, "Hi")

        body = refused(response, "messages_per_minute")
        assert (body["allowed"], 1 <= seconds(response) <= 60) == (2, True)
        assert abs(body["reset_time"] - time.time() - seconds(response)) < 5
        assert len(provider.requests) == 2
        assert Message.objects.count() == 4
        Tally.objects.update(ends_at=int(time.time()))
        assert as_alice.ask(conversation, "Hi").status_code == 200

    @every_way
    def test_every_way_counts(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        way: str,
    ) -> None:
        base = make_base(as_alice)
        provider.enqueue(Script(**CUT), Script(**CUT))
        as_alice.ask(conversation, "Hi")
        limit(settings, messages_per_minute=1)

        assert WAYS[way](as_alice, conversation, base).status_code == 200

        before = list(Message.objects.values())
        for again in WAYS.values():
            refused(again(as_alice, conversation, base), "messages_per_minute")
        assert list(Message.objects.values()) == before

    def test_a_socket_counts_and_stays_open(
        self, as_alice: Client, conversation: int, settings: Any
    ) -> None:
        limit(settings, messages_per_minute=1)
        with socket_of(as_alice, conversation) as socket:
            socket.send("message", message="Hi")
            assert list(socket.events())[-1].name == "done"

            socket.send("message", message="Hi")
            (told,) = socket.events()

            assert (told.name, told.data["limit"]) == ("error", "messages_per_minute")
            assert 1 <= told.data["retry_after"] <= 60
            socket.send("stop")
            assert socket.event().name == "idle"

    def test_what_is_not_asked_does_not_count(
        self, as_alice: Client, conversation: int, provider: FakeProvider, settings: Any
    ) -> None:
        limit(settings, messages_per_minute=3)
        key = {"Idempotency-Key": str(uuid.uuid4())}
        as_alice.ask(conversation, "Hi", headers=key)
        assert as_alice.ask(conversation, "Hi", headers=key).status_code == 200
        path = f"/api/chat/{conversation}"
        assert as_alice.post(f"{path}/continue", json={}).status_code == 409
        assert as_alice.get(f"{path}/stream").status_code == 204
        with being_written(as_alice, conversation, provider):
            assert as_alice.ask(conversation, "Hi").status_code == 409
        assert as_alice.ask(conversation, "Hi").status_code == 200

        refused(as_alice.ask(conversation, "Hi"), "messages_per_minute")

    def test_it_is_counted_in_sql_where_there_is_redis(
        self, as_alice: Client, conversation: int, settings: Any, redis: Any
    ) -> None:
        limit(settings, messages_per_minute=1)
        as_alice.ask(conversation, "Hi")
        redis.stop()

        refused(as_alice.ask(conversation, "Hi"), "messages_per_minute")


class TestOfOneUser:
    def test_the_accounts_own_limit_counts_more(
        self,
        as_alice: Client,
        as_mallory: Client,
        alice: User,
        conversation: int,
        settings: Any,
    ) -> None:
        limit(settings, messages_per_minute=1)
        User.objects.filter(pk=alice.pk).update(max_messages_per_minute=2)
        others = as_mallory.conversation()

        statuses = [as_alice.ask(conversation, "Hi").status_code for _ in range(3)]
        theirs = [as_mallory.ask(others, "Hi").status_code for _ in range(2)]

        assert (statuses, theirs) == ([200, 200, 429], [200, 429])

    def test_nought_lifts_the_configured_one(
        self, as_alice: Client, alice: User, conversation: int, settings: Any
    ) -> None:
        limit(settings, messages_per_minute=1, concurrent_answers=1, tokens_per_day=1)
        User.objects.filter(pk=alice.pk).update(
            max_messages_per_minute=0, max_concurrent_answers=0, max_tokens_per_day=0
        )

        for _ in range(2):
            assert as_alice.ask(conversation, "Hi").status_code == 200


class TestConcurrentAnswers:
    @pytest.fixture(autouse=True)
    def one(self, settings: Any) -> None:
        limit(settings, concurrent_answers=1)

    def test_a_second_waits_for_the_end_of_the_first(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        other = as_alice.conversation()
        with being_written(as_alice, conversation, provider):
            response = as_alice.ask(other, "Hi")

        body = refused(response, "concurrent_answers")
        assert (body["allowed"], body["reset_time"]) == (1, None)
        assert seconds(response) == 2
        assert as_alice.ask(other, "Hi").status_code == 200

    def test_one_of_the_same_conversation_is_told_what_it_was_told_before(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        with being_written(as_alice, conversation, provider):
            response = as_alice.ask(conversation, "Hi")

        assert response.json()["code"] == "answer_in_progress"

    @pytest.mark.parametrize("end", ["stop", "delete", "failure", "death"])
    def test_however_it_ends_another_can_begin(
        self, as_alice: Client, conversation: int, provider: FakeProvider, end: str
    ) -> None:
        other = as_alice.conversation()
        path = f"/api/chat/{conversation}"
        if end == "failure":
            provider.enqueue(refusal(401))
            as_alice.ask(conversation, "Hi")
        else:
            with being_written(as_alice, conversation, provider):
                if end == "stop":
                    as_alice.post(f"{path}/stop")
                elif end == "delete":
                    as_alice.post(f"/api/conversations/del/{conversation}")
                else:
                    dead = make_writer(silent=60)
                    Message.objects.filter(status="streaming").update(writer=dead)
                if end != "stop":
                    assert as_alice.ask(other, "Hi").status_code == 200

        for _ in range(2):
            assert as_alice.ask(other, "Hi").status_code == 200


class TestTokens:
    def test_an_answer_sets_aside_what_it_may_take_and_settles_for_what_it_took(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        first: int,
    ) -> None:
        limit(settings, tokens_per_day=2 * first - 1)
        other = as_alice.conversation()
        with being_written(as_alice, conversation, provider):
            left = as_alice.get(PATH).json()["limits"][DAY]
            response = as_alice.ask(other, "Hi")

        assert left["remaining"] == first - 1
        body = refused(response, DAY)
        # It is the other answer that is waited for.
        assert (body["reset_time"], seconds(response)) == (None, 2)
        assert as_alice.ask(other, "Hi").status_code == 200
        left = as_alice.get(PATH).json()["limits"][DAY]
        assert left["remaining"] == 2 * first - 1 - 20

    @pytest.mark.parametrize(("name", "spent_on"), [(DAY, 0), (MONTH, 0), (MONTH, 1)])
    def test_what_is_spent_is_there_again_in_the_next_period(
        self,
        as_alice: Client,
        alice: User,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        name: str,
        spent_on: int,
    ) -> None:
        limit(settings, **{name: 5000})
        now = datetime.now(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        tomorrow = midnight + timedelta(days=1)
        next_month = (midnight.replace(day=1) + timedelta(days=31)).replace(day=1)
        spend(alice, 4000, now.date().replace(day=1) if spent_on else None)

        response = as_alice.ask(conversation, "Hi")

        body = refused(response, name)
        reset = tomorrow if name == DAY else next_month
        assert body["reset_time"] == reset.timestamp()
        assert abs(time.time() + seconds(response) - reset.timestamp()) < 5
        assert (provider.requests, Message.objects.count()) == ([], 0)

    def test_what_was_spent_before_the_period_does_not_count(
        self, as_alice: Client, alice: User, conversation: int, settings: Any
    ) -> None:
        limit(settings, tokens_per_day=5000, tokens_per_month=5000)
        today = datetime.now(UTC).date()
        spend(alice, 4999, today.replace(day=1) - timedelta(days=1))

        assert as_alice.ask(conversation, "Hi").status_code == 200

    def test_the_longer_wait_is_told(
        self, as_alice: Client, alice: User, conversation: int, settings: Any
    ) -> None:
        limit(settings, tokens_per_day=5000, tokens_per_month=5000)
        spend(alice, 5000)

        refused(as_alice.ask(conversation, "Hi"), MONTH)

    def test_a_question_that_is_larger_than_the_limit_need_not_be_tried_again(
        self, as_alice: Client, conversation: int, settings: Any, first: int
    ) -> None:
        limit(settings, tokens_per_day=first - 1)

        body = refused(as_alice.ask(conversation, "Hi"), DAY, status=413)

        assert body["allowed"] == first - 1
        limit(settings, tokens_per_day=first)
        assert as_alice.ask(conversation, "Hi").status_code == 200

    def test_a_shorter_answer_takes_less(
        self, as_alice: Client, conversation: int, settings: Any, first: int
    ) -> None:
        limit(settings, tokens_per_day=first - 1000)
        path = f"/api/conversations/{conversation}"
        as_alice.patch(path, json={"max_tokens": 24})

        assert as_alice.ask(conversation, "Hi").status_code == 200

    @pytest.mark.parametrize(
        "said", ["Fifty words or so. " * 100, "约五十个字。" * 100]
    )
    def test_what_was_said_before_is_set_aside_too(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        first: int,
        said: str,
    ) -> None:
        provider.enqueue(Script(pieces=[said]))
        as_alice.ask(conversation, said)
        limit(settings, tokens_per_day=100_000)

        def aside(path: str, **body: Any) -> int:
            provider.enqueue(Script(stall_after=1))
            with as_alice.stream("POST", path, json=body) as response:
                next(response.iter_bytes())
                found = Message.objects.get(status="streaming").set_aside
                provider.release_all()
            until_idle()
            return found

        path = f"/api/chat/{conversation}"
        before = 2 * tokens(said)
        assert 0 <= aside(path, message="Hi") - first - before < before * 0.3
        # Of an edited question only what stands before it is sent.
        assert aside(f"{path}/edit", message_id=1, message="Hi") == first

    def test_no_more_is_set_aside_than_the_model_can_take(
        self, as_alice: Client, conversation: int, provider: FakeProvider, settings: Any
    ) -> None:
        provider.enqueue(Script(pieces=["word " * 20_000]))
        as_alice.ask(conversation, "Hi")
        limit(settings, tokens_per_day=project.CONFIG.chat.context_window + 10)

        assert as_alice.ask(conversation, "Hi").status_code == 200

    def test_passages_are_set_aside_too(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        first: int,
    ) -> None:
        base = make_base(as_alice)
        limit(settings, tokens_per_day=first + 1010)
        ask = {"message": "Hi", "kb_id": base, "top_k": 5}
        path = f"/api/chat/{conversation}"

        refused(as_alice.post(path, json=ask), DAY, status=413)
        assert as_alice.post(path, json={**ask, "top_k": 1}).status_code == 200

    def test_quoting_costs_nothing(
        self, as_alice: Client, alice: User, settings: Any
    ) -> None:
        limit(settings, tokens_per_day=1)
        spend(alice, 5)
        conversation = as_alice.conversation(model="local-quote")

        assert as_alice.ask(conversation, "Hi").status_code == 200

    def test_one_of_a_dead_process_is_settled_by_who_ends_it(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        first: int,
    ) -> None:
        limit(settings, tokens_per_day=10_000)
        with being_written(as_alice, conversation, provider):
            dead = make_writer(silent=60)
            Message.objects.filter(status="streaming").update(writer=dead)
            assert interrupt_orphans() <= 1

        left = as_alice.get(PATH).json()["limits"][DAY]["remaining"]
        assert 10_000 - (first - 1024) - 5 <= left <= 10_000 - (first - 1024)

    def test_who_deletes_the_conversation_has_spent_what_had_come(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
        first: int,
    ) -> None:
        limit(settings, tokens_per_day=10_000)
        with being_written(as_alice, conversation, provider):
            as_alice.post(f"/api/conversations/del/{conversation}")
            body = as_alice.get(PATH).json()

        assert body["total"]["answers"] == body["total"]["estimated_answers"] == 1
        left = body["limits"][DAY]["remaining"]
        assert left == 10_000 - body["total"]["total_tokens"]
        assert body["total"]["prompt_tokens"] == first - 1024
        assert as_alice.get(PATH).json() == body


class TestWhatIsTold:
    def test_the_usage_of_an_answer_says_what_remains(
        self, as_alice: Client, conversation: int, settings: Any
    ) -> None:
        limit(settings, tokens_per_day=5000)

        usage = usage_of(as_alice.ask(conversation, "Hi", headers=SSE))

        assert usage["remaining"] == {DAY: 4990}
        limit(settings, tokens_per_month=100)
        again = {**SSE, "Last-Event-ID": "2-0-0"}
        path = f"/api/chat/{conversation}/stream"
        told = usage_of(as_alice.get(path, headers=again))
        assert told["remaining"] == {DAY: 4990, MONTH: 90}

    def test_a_socket_is_told_too(
        self, as_alice: Client, conversation: int, settings: Any
    ) -> None:
        limit(settings, tokens_per_month=5000)
        with socket_of(as_alice, conversation) as socket:
            socket.send("message", message="Hi")
            events: dict[str, Event] = {e.name: e for e in socket.events()}

        assert events["usage"].data["remaining"] == {MONTH: 4990}
        assert events["done"].data["usage"] == events["usage"].data

    def test_without_a_limit_nothing_is_said_of_it(
        self, as_alice: Client, conversation: int, settings: Any
    ) -> None:
        limit(settings, messages_per_minute=5, concurrent_answers=5)

        usage = usage_of(as_alice.ask(conversation, "Hi", headers=SSE))

        assert "remaining" not in usage

    def test_the_account_shows_every_limit(
        self, as_alice: Client, conversation: int, settings: Any
    ) -> None:
        names = ("messages_per_minute", "concurrent_answers", DAY, MONTH)
        limit(settings, **dict.fromkeys((*names, "documents", "document_mb"), 2000))
        base = make_base(as_alice)
        as_alice.ask(conversation, "Hi")
        as_alice.post(
            "/api/rag/doc/upload",
            data={"kb_id": base},
            files={"file": ("a.txt", b"Swifts sleep while they fly.")},
        )

        limits = as_alice.get(PATH).json()["limits"]

        resets = {name: limits[name].pop("reset_time") for name in limits}
        assert limits == {
            "messages_per_minute": {"allowed": 2000, "remaining": 1999},
            "concurrent_answers": {"allowed": 2000, "remaining": 2000},
            DAY: {"allowed": 2000, "remaining": 1990},
            MONTH: {"allowed": 2000, "remaining": 1990},
            "documents": {"allowed": 2000, "remaining": 1999},
            "document_mb": {"allowed": 2000, "remaining": 1999.99},
        }
        now = time.time()
        assert now < resets["messages_per_minute"] <= now + 61
        assert now < resets[DAY] <= now + 86401
        assert resets[DAY] % 86400 == resets[MONTH] % 86400 == 0
        endless = ("concurrent_answers", "documents", "document_mb")
        assert [resets[name] for name in endless] == [None] * 3


class TestWhatItCosts:
    """In statements of the transaction that opens an answer."""

    def opened(self, alice: User, **limits: int) -> list[str]:
        user = User.objects.get(pk=alice.pk)
        for name, most in limits.items():
            setattr(user, name, most)
        conversation = make_conversation(user)
        with CaptureQueriesContext(connection) as seen:
            open_turn(
                user=user,
                conversation_id=conversation.pk,
                asked=Question("Hi"),
                writer=uuid.uuid4(),
            )
        return [query["sql"] for query in seen.captured_queries]

    def test_nothing_without_limits_and_one_or_two_with_all_of_them(
        self, db: None
    ) -> None:
        alice = make_user("alice")
        usual = len(self.opened(alice, max_documents=5))
        locks = connection.features.has_select_for_update

        assert len(self.opened(alice, max_messages_per_minute=5)) == usual + 1
        everything = {
            "max_messages_per_minute": 5,
            "max_concurrent_answers": 50,
            "max_tokens_per_day": 100_000,
            "max_tokens_per_month": 100_000,
        }
        assert len(self.opened(alice, **everything)) == usual + 2 + locks

    def test_what_is_being_written_is_found_by_its_index(self, db: None) -> None:
        if connection.vendor != "sqlite":
            pytest.skip("PostgreSQL decides by how many rows there are.")
        opened = self.opened(make_user("alice"), max_concurrent_answers=5)
        (statement,) = [sql for sql in opened if "set_aside" in sql and "SUM" in sql]
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            plan = "\n".join(str(row[3]) for row in cursor.fetchall())

        assert plan.count("USING INDEX one_answer_at_a_time") == 2


def until_idle() -> None:
    """Until every answer has ended, as the database knows it."""
    assert eventually(lambda: not Message.objects.filter(status="streaming").exists())
