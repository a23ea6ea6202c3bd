"""What answers cost: told at their end, kept with them, and summed up by day."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings

from conversations.models import Message, Usage
from conversations.usage import ENDS, MOST_HELD
from conversations.writers import interrupt_orphans
from llmbackend.token_counts import tokens
from tests.chat.streams import SSE, Event, events_of
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import FakeProvider, Script, refusal

pytestmark = pytest.mark.usefixtures("same_hour")

PATH = "/api/users/me/usage"
LONG_AGO = "2026-01-01T00:00:00Z"
UNCOUNTED: dict[str, Any] = {"pieces": ["Hel", "lo"], "usage": None}
CUT: dict[str, Any] = {**UNCOUNTED, "finish_reason": None, "done": False}
NOTHING = {
    "answers": 0,
    "estimated_answers": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
}


def counts(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    total = prompt + completion
    both = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {**both, "total_tokens": total, **more}


def today() -> date:
    return datetime.now(UTC).date()


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


@pytest.fixture
def sent() -> int:
    """About how many tokens the question "Hi" is sent with."""
    return tokens(settings.CONFIG.chat.system_prompt) + tokens("Hi")


def told(response: Any) -> dict[str, Event]:
    """The events of a stream by their names."""
    return {event.name: event for event in events_of(response.text)}


def said(number: int, role: str, content: str) -> dict[str, Any]:
    """A message of an import."""
    text = {"message_id": number, "role": role, "content": content}
    return {**text, "created_at": LONG_AGO}


def take_in(client: Client, *messages: dict[str, Any]) -> int:
    """The conversation that is made of them."""
    times = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    one = {"title": "", "model": "gpt-4o", **times, "messages": messages}
    file = {"format": "llmbackend.conversations", "version": 1, "conversations": [one]}
    made = client.post("/api/conversations/import", json=file).json()
    return int(made["conversations"][0]["conversation_id"])


class TestOfAnAnswer:
    def test_it_is_what_the_provider_says(
        self, as_alice: Client, conversation: int
    ) -> None:
        events = told(as_alice.ask(conversation, "Hi", headers=SSE))

        assert events["usage"].data == events["done"].data["usage"] == counts(7, 3)
        answer = Message.objects.get(number=2)
        assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
        assert not answer.tokens_estimated

    @pytest.mark.parametrize(
        "script", [Script(**UNCOUNTED), Script(**{**UNCOUNTED, "usage": (-1, 10**12)})]
    )
    def test_it_is_an_estimate_where_the_provider_does_not_count(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        sent: int,
        script: Script,
    ) -> None:
        provider.enqueue(script)

        events = told(as_alice.ask(conversation, "Hi", headers=SSE))

        expected = counts(sent, tokens("Hello"), estimated=True)
        assert events["usage"].data == events["done"].data["usage"] == expected
        answer = Message.objects.get(number=2)
        assert (answer.prompt_tokens, answer.completion_tokens) == (sent, 2)
        assert answer.tokens_estimated

    def test_thinking_aloud_costs_too(
        self, as_alice: Client, conversation: int, provider: FakeProvider, sent: int
    ) -> None:
        provider.enqueue(Script(reasoning=["嗯" * 10], **UNCOUNTED))

        events = told(as_alice.ask(conversation, "Hi", headers=SSE))

        assert events["usage"].data["completion_tokens"] == 12

    def test_it_is_told_before_an_error(
        self, as_alice: Client, conversation: int, provider: FakeProvider, sent: int
    ) -> None:
        provider.enqueue(Script(**CUT))

        events = told(as_alice.ask(conversation, "Hi", headers=SSE))

        expected = counts(sent, tokens("Hello"), estimated=True)
        assert events["usage"].data == events["error"].data["usage"] == expected
        assert Message.objects.get(number=2).completion_tokens == 2

    def test_a_stopped_answer_has_cost_what_had_come(
        self, as_alice: Client, conversation: int, provider: FakeProvider, sent: int
    ) -> None:
        provider.enqueue(Script(**UNCOUNTED, stall_after=1))
        path = f"/api/chat/{conversation}"
        with as_alice.stream("POST", path, json={"message": "Hi"}) as response:
            next(response.iter_bytes())
            as_alice.post(f"{path}/stop")
            response.close()
        told_again = as_alice.get(
            f"{path}/stream", headers={**SSE, "Last-Event-ID": "2-0-0"}
        )

        answer = Message.objects.get(number=2)
        assert (answer.status, answer.content) == ("stopped", "Hel")
        expected = counts(sent, tokens("Hel"), estimated=True)
        assert told(told_again)["usage"].data == expected
        assert answer.prompt_tokens == sent

    @pytest.mark.parametrize("script", [refusal(401), Script(status=302)])
    def test_one_that_was_refused_has_cost_nothing(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        script: Script,
    ) -> None:
        provider.enqueue(script)

        assert as_alice.ask(conversation, "Hi").status_code == 502

        answer = Message.objects.get(number=2)
        assert (answer.prompt_tokens, answer.completion_tokens) == (None, None)
        assert as_alice.get(PATH).json()["total"] == NOTHING

    def test_a_continued_answer_has_cost_both_calls(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(
            Script(pieces=["Hello"], finish_reason="length", usage=(7, 3)),
            Script(pieces=[" you!"], usage=(20, 4)),
        )
        as_alice.ask(conversation, "Hi")

        path = f"/api/chat/{conversation}/continue"
        events = told(as_alice.post(path, headers=SSE))

        assert events["usage"].data == counts(27, 7)
        answer = Message.objects.get(number=2)
        assert (answer.prompt_tokens, answer.completion_tokens) == (27, 7)
        assert as_alice.get(PATH).json()["total"] == {
            **NOTHING,
            **counts(27, 7),
            "answers": 2,
        }

    def test_a_continuation_that_is_refused_leaves_what_was_counted(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(
            Script(pieces=["Hello"], finish_reason="length", usage=(7, 3)), refusal(401)
        )
        as_alice.ask(conversation, "Hi")

        as_alice.post(f"/api/chat/{conversation}/continue")

        answer = Message.objects.get(number=2)
        assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
        assert as_alice.get(PATH).json()["total"]["answers"] == 1

    def test_it_counts_where_the_question_has_cost_nothing(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        free = Script(pieces=["Hello"], finish_reason="length", usage=(0, 3))
        provider.enqueue(free, free, refusal(401))
        as_alice.ask(conversation, "Hi")
        for _ in range(2):
            as_alice.post(f"/api/chat/{conversation}/continue")

        answer = Message.objects.get(number=2)
        assert (answer.prompt_tokens, answer.completion_tokens) == (0, 6)
        (day,) = as_alice.get(PATH).json()["days"]
        assert (day["answers"], day["total_tokens"]) == (2, 6)

    @pytest.mark.parametrize("dies", [False, True])
    def test_an_answer_that_had_cost_all_there_can_be_is_continued_to_an_end(
        self, as_alice: Client, provider: FakeProvider, dies: bool
    ) -> None:
        cost = {"prompt_tokens": MOST_HELD, "completion_tokens": MOST_HELD}
        answer = {**said(2, "assistant", "Hel"), "parent_id": 1, **cost}
        conversation = take_in(
            as_alice, said(1, "user", "Hi"), {**answer, "status": "truncated"}
        )
        if dies:
            Message.objects.filter(number=2).update(status="streaming")
            interrupt_orphans()
        else:
            as_alice.post(f"/api/chat/{conversation}/continue")

        row = Message.objects.get(number=2)
        assert row.status == ("interrupted" if dies else "complete")
        assert row.prompt_tokens == row.completion_tokens == MOST_HELD
        spent = as_alice.get(PATH).json()["total"]["prompt_tokens"]
        assert 0 < spent < 1000
        assert as_alice.ask(conversation, "Go on").status_code == 200

    def test_an_answer_of_a_dead_process_is_estimated_by_who_ends_it(
        self, as_alice: Client, conversation: int, provider: FakeProvider, sent: int
    ) -> None:
        as_alice.ask(conversation, "Hi")
        as_alice.ask(conversation, "你好")
        Message.objects.filter(number=4).update(
            status="streaming", content="Half of it", reasoning="Hm", prompt_tokens=None
        )

        assert interrupt_orphans() == 1

        answer = Message.objects.get(number=4)
        assert answer.tokens_estimated
        assert answer.prompt_tokens == sent + tokens("Hello!") + tokens("你好")
        assert answer.completion_tokens == tokens("Half of it") + tokens("Hm")
        total = as_alice.get(PATH).json()["total"]
        assert (total["answers"], total["estimated_answers"]) == (3, 1)


class TestOfADay:
    def test_nothing_is_spent_before_the_first_answer(self, as_alice: Client) -> None:
        assert as_alice.get(PATH).json() == {
            "since": (today() - timedelta(days=29)).isoformat(),
            "until": today().isoformat(),
            "total": NOTHING,
            "days": [],
            "limits": {
                "messages_per_minute": None,
                "concurrent_answers": None,
                "tokens_per_day": None,
                "tokens_per_month": None,
                "documents": {"allowed": 1000, "remaining": 1000, "reset_time": None},
                "document_mb": {"allowed": 1024, "remaining": 1024, "reset_time": None},
            },
        }

    def test_it_is_by_model(
        self, as_alice: Client, conversation: int, provider: FakeProvider, sent: int
    ) -> None:
        other = as_alice.conversation(model="gpt-5")
        for _ in range(2):
            as_alice.ask(conversation, "Hi")
        provider.enqueue(Script(**CUT))
        as_alice.ask(other, "Hi")

        body = as_alice.get(PATH).json()

        day = today().isoformat()
        four = {**counts(14, 6), "answers": 2, "estimated_answers": 0}
        five = {**counts(sent, 2), "answers": 1, "estimated_answers": 1}
        assert body["days"] == [
            {"day": day, "model": "gpt-4o", **four},
            {"day": day, "model": "gpt-5", **five},
        ]
        assert body["total"] == {name: four[name] + five[name] for name in four}

    def test_it_stays_when_the_conversation_goes(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi")

        as_alice.post(f"/api/conversations/del/{conversation}")

        assert as_alice.get(PATH).json()["total"]["total_tokens"] == 10

    def test_it_is_ones_own(
        self, as_alice: Client, as_mallory: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi")

        assert as_mallory.get(PATH).json()["total"] == NOTHING

    def test_answers_that_end_at_once_are_all_counted(
        self, as_alice: Client, provider: FakeProvider, served: Served
    ) -> None:
        conversations = [as_alice.conversation() for _ in range(12)]
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda pk: as_alice.ask(pk, "Hi"), conversations))
        until_idle(served)

        assert as_alice.get(PATH).json()["total"] == {
            **NOTHING,
            **counts(84, 36),
            "answers": 12,
        }


class TestEnds:
    """Of which an operator's report is made."""

    def ended(self, model: str = "gpt-4o") -> dict[str, int]:
        row = Usage.objects.values(*ENDS).get(model=model)
        return {name: count for name, count in row.items() if count}

    def test_every_answer_counts_once_at_each_end(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        longer = Script(pieces=["Hello"], finish_reason="length")
        provider.enqueue(Script(), Script(**CUT), longer, refusal(401))
        for _ in range(3):
            as_alice.ask(conversation, "Hi")

        as_alice.post(f"/api/chat/{conversation}/continue")

        assert self.ended() == {"complete": 2, "truncated": 1, "failed": 1}
        assert Usage.objects.get().answers == 3

    def test_one_that_cost_nothing_is_in_the_report_alone(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(refusal(401))
        as_alice.ask(conversation, "Hi")
        as_alice.ask(as_alice.conversation(model="local-quote"), "Hi")

        assert self.ended() == {"failed": 1}
        assert self.ended("local-quote") == {"complete": 1}
        assert as_alice.get(PATH).json()["days"] == []

    def test_who_dies_and_who_is_deleted_is_interrupted(
        self, as_alice: Client, conversation: int
    ) -> None:
        other = as_alice.conversation()
        for each in (conversation, other):
            as_alice.ask(each, "Hi")
        Message.objects.filter(number=2).update(status="streaming", writer=None)
        as_alice.post(f"/api/conversations/del/{conversation}")
        interrupt_orphans()

        assert self.ended() == {"complete": 2, "interrupted": 2}


class TestPeriods:
    @pytest.fixture(autouse=True)
    def some_days(self, alice: Any) -> None:
        for day in (1, 10, 11, 20):
            Usage.objects.create(
                owner=alice,
                day=date(2025, 3, day),
                model="gpt-4o",
                answers=1,
                prompt_tokens=day,
            )

    def days(self, client: Client, **query: str) -> list[int]:
        body = client.get(PATH, params=query).json()
        return [int(row["day"][-2:]) for row in body["days"]]

    def test_both_ends_are_included(self, as_alice: Client) -> None:
        found = self.days(as_alice, since="2025-03-10", until="2025-03-20")

        assert found == [20, 11, 10]

    def test_without_a_beginning_it_is_thirty_days(self, as_alice: Client) -> None:
        assert self.days(as_alice, until="2025-03-30") == [20, 11, 10, 1]
        assert self.days(as_alice, until="2025-03-31") == [20, 11, 10]

    @pytest.mark.parametrize(
        "query",
        [
            {"since": "yesterday"},
            {"since": "2025-02-30"},
            {"since": "1761955200"},
            {"since": "2025-03-02", "until": "2025-03-01"},
            {"since": "2024-01-01", "until": "2025-01-01"},
            {"since": "9999-12-31"},
        ],
    )
    def test_what_is_no_period_is_a_400(
        self, as_alice: Client, query: dict[str, str]
    ) -> None:
        assert as_alice.get(PATH, params=query).status_code == 400

    @pytest.mark.parametrize(
        ("until", "wrong"),
        [
            ("2024-12-31", "since: must not be after until."),
            ("2026-01-02", "since: must be less than 366 days before until."),
        ],
    )
    def test_which_period_is_none_is_said(
        self, as_alice: Client, until: str, wrong: str
    ) -> None:
        answer = as_alice.get(PATH, params={"since": "2025-01-01", "until": until})

        assert answer.json()["error"] == wrong

    def test_the_first_day_there_is_has_none_before_it(self, as_alice: Client) -> None:
        assert as_alice.get(f"{PATH}?until=0001-01-01").status_code == 200
