"""Titles that conversations are given by their first question, or by the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conversations.models import Conversation
from tests.chat.eventually import eventually
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import FakeProvider, Request, Script, refusal

CREATE = "/api/conversations/create"
UNTITLED = {"model": "gpt-4o"}


@pytest.fixture
def conversation(as_alice: Client) -> int:
    made = as_alice.post(CREATE, json=UNTITLED).json()
    return int(made["conversation_id"])


def auto_title(settings: Any, value: str) -> None:
    chat = replace(settings.CONFIG.chat, auto_title=value)
    settings.CONFIG = replace(settings.CONFIG, chat=chat)


def title_of(client: Client, conversation: int) -> str:
    response = client.get(f"/api/conversations/{conversation}")
    return str(response.json()["title"])


def asks_for_title(request: Request) -> bool:
    return "title" in request.body["messages"][-1]["content"]


class TestByTheFirstQuestion:
    @pytest.mark.parametrize("given", [{}, {"title": ""}, {"title": None}])
    def test_until_then_it_is_empty(self, as_alice: Client, given: Any) -> None:
        made = as_alice.post(CREATE, json={**UNTITLED, **given})

        assert (made.status_code, made.json()["title"]) == (200, "")
        assert as_alice.get("/api/conversations/list").json()[0]["title"] == ""

    @pytest.mark.parametrize(
        ("question", "title"),
        [
            ("  介绍一下RUST\n", "介绍一下RUST"),
            ("一" * 60, "一" * 40 + "…"),
            ("x" * 41, "x" * 40 + "…"),
            ("什么是所有权？" + "我写过多年的 Java," * 5, "什么是所有权？"),
            (
                "Explain\n\townership to somebody who has never seen it",
                "Explain ownership to somebody who has…",
            ),
            ("No. But explain ownership to me as if I were five", None),
        ],
    )
    def test_it_is_the_question_shortened(
        self, as_alice: Client, conversation: int, question: str, title: str | None
    ) -> None:
        as_alice.ask(conversation, question)

        found = title_of(as_alice, conversation)
        assert found == (title or "No. But explain ownership to me as if I…")

    def test_it_is_there_before_the_answer(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(refusal(401))

        assert as_alice.ask(conversation, "Why?").status_code == 502
        assert title_of(as_alice, conversation) == "Why?"

    def test_later_questions_leave_it(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "First")
        as_alice.ask(conversation, "Second")

        assert title_of(as_alice, conversation) == "First"

    def test_a_title_that_was_given_stays(self, as_alice: Client) -> None:
        conversation = as_alice.conversation(title="Rust")

        as_alice.ask(conversation, "What is borrowing?")

        assert title_of(as_alice, conversation) == "Rust"

    def test_where_it_is_off_there_is_none(
        self, as_alice: Client, conversation: int, settings: Any
    ) -> None:
        auto_title(settings, "off")

        as_alice.ask(conversation, "First")

        assert title_of(as_alice, conversation) == ""


class TestByTheModel:
    @pytest.fixture(autouse=True)
    def by_the_model(self, settings: Any) -> None:
        auto_title(settings, "model")

    def test_it_comes_after_the_first_answer_and_holds_nothing_up(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=['"Owning ', 'and borrowing"'], stall_after=1)
        provider.when(asks_for_title, held)

        as_alice.ask(conversation, "What is borrowing?")
        as_alice.ask(conversation, "And owning?")
        before = title_of(as_alice, conversation)
        held.release.set()

        assert before == "What is borrowing?"
        assert eventually(
            lambda: title_of(as_alice, conversation) == "Owning and borrowing"
        )
        asked = [r for r in provider.requests if asks_for_title(r)]
        assert [r.body["model"] for r in asked] == ["gpt-4o"]
        assert (
            "What is borrowing?\n\nHello!" in asked[0].body["messages"][-1]["content"]
        )

    def test_the_conversations_own_key_pays(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        made = as_alice.post(CREATE, json={**UNTITLED, "api_key": "sk-own"}).json()
        as_alice.ask(made["conversation_id"], "Why?")

        assert provider.wait_until(lambda: len(provider.requests) == 2)
        assert provider.requests[1].api_key == "sk-own"

    @pytest.mark.parametrize(
        "script",
        [
            refusal(500),
            Script(pieces=["**"]),
            Script(pieces=["Ti"], finish_reason=None, usage=None, done=False),
        ],
    )
    def test_a_failure_leaves_the_question_and_is_logged_without_it(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        script: Script,
        caplog: Any,
    ) -> None:
        provider.when(asks_for_title, script)

        as_alice.ask(conversation, "Why?")

        assert provider.wait_until(
            lambda: len(provider.requests) == 2 and provider.answering == 0
        )
        as_alice.ask(conversation, "And then?")
        assert title_of(as_alice, conversation) == "Why?"
        assert "Why?" not in caplog.text

    def test_one_that_was_given_meanwhile_wins(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        held = Script(pieces=["Owning"], stall_after=0)
        provider.when(asks_for_title, held)
        as_alice.ask(conversation, "Why?")
        path = f"/api/conversations/{conversation}"
        as_alice.patch(path, json={"title": "Mine"})

        held.release.set()

        assert provider.wait_until(lambda: provider.answering == 0)
        version = Conversation.objects.get().version
        as_alice.ask(conversation, "And then?")
        assert title_of(as_alice, conversation) == "Mine"
        assert Conversation.objects.get().version == version + 2

    @pytest.mark.parametrize("title", ["Rust", ""])
    def test_nothing_is_asked_for_a_title_that_was_given_or_an_answer_that_failed(
        self, as_alice: Client, provider: FakeProvider, served: Served, title: str
    ) -> None:
        if not title:
            provider.enqueue(refusal(401))
        body = {**UNTITLED, "title": title}
        made = as_alice.post(CREATE, json=body).json()

        as_alice.ask(made["conversation_id"], "Why?")
        until_idle(served)
        as_alice.get("/api/conversations/list")

        assert not [r for r in provider.requests if asks_for_title(r)]
