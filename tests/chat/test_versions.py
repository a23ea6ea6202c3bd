"""Stop, continue, regenerate, edit: what is done to an answer, and its branches."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from conversations.models import Message
from tests.chat.eventually import eventually
from tests.chat.streams import SSE, events_in, events_of, text_of
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import FakeProvider, Script, refusal
from tests.rag.embeddings import BIRDS, added, make_base


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


def do(client: Client, conversation: int, deed: str, **body: Any) -> httpx2.Response:
    return client.post(f"/api/chat/{conversation}/{deed}", json=body, headers=SSE)


def said(client: Client, conversation: int) -> list[str]:
    return [message["content"] for message in client.history(conversation)]


def stopped_answer(
    client: Client, conversation: int, provider: FakeProvider, **script: Any
) -> None:
    """An answer that said "Hello" of "Hello there" and was stopped."""
    held = Script(**{"pieces": ["Hel", "lo", " there"], "stall_after": 2, **script})
    provider.enqueue(held)
    path = f"/api/chat/{conversation}"
    with client.stream("POST", path, json={"message": "Hi"}, headers=SSE) as response:
        events = events_in(response.iter_lines())
        text = ""
        while text != "Hello":
            event = next(events)
            text += event.data if event.name == "message" else ""
        client.post(f"{path}/stop").raise_for_status()
        assert [event.name for event in events][-1] == "done"


class TestStop:
    def test_the_text_is_kept_and_the_provider_let_go(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)

        answer = as_alice.history(conversation)[-1]
        assert (answer["content"], answer["status"]) == ("Hello", "stopped")
        assert provider.wait_until(lambda: provider.answering == 0, 1.0)
        assert provider.requests[0].client_left_at is not None

    def test_every_reader_is_told_of_one_end(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=["Hello", "!"], stall_after=1)
        provider.enqueue(held)
        path = f"/api/chat/{conversation}"
        with (
            as_alice.stream("POST", path, json={"message": "Hi"}, headers=SSE) as one,
            as_alice.stream("GET", f"{path}/stream", headers=SSE) as other,
        ):
            as_alice.post(f"{path}/stop", json={"message_id": 2})
            told = [list(events_in(each.iter_lines())) for each in (one, other)]

        for events in told:
            ends = [e for e in events if e.name in {"done", "error"}]
            assert [end.data["status"] for end in ends] == ["stopped"]

    def test_lines_end_as_when_it_is_complete(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["Hello", "!"], stall_after=1))
        path = f"/api/chat/{conversation}"
        with as_alice.stream("POST", path, json={"message": "Hi"}) as response:
            lines = response.iter_lines()
            next(lines)
            as_alice.post(f"{path}/stop")
            events = [json.loads(line) for line in lines if line]

        assert [event["event"] for event in events] == ["done", "full_response"]

    def test_to_stop_twice_is_no_mistake(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)

        again = as_alice.post(f"/api/chat/{conversation}/stop")

        assert again.status_code == 200
        assert again.json()["stopped"] is False

    def test_a_late_stop_spares_a_newer_answer(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)
        held = Script(pieces=["Fine", "."], stall_after=1)
        provider.enqueue(held)
        path = f"/api/chat/{conversation}"
        with as_alice.stream(
            "POST", path, json={"message": "How are you?"}, headers=SSE
        ) as response:
            late = as_alice.post(f"{path}/stop", json={"message_id": 2})
            held.release.set()
            events = list(events_in(response.iter_lines()))

        assert late.json()["stopped"] is False
        assert events[-1].data["status"] == "complete"

    def test_an_answer_that_has_not_begun_ends_empty(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(stall_at_headers=True))
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(as_alice.ask, conversation, "Hi", headers=SSE)
            assert provider.wait_until(lambda: bool(provider.requests))
            as_alice.post(f"/api/chat/{conversation}/stop")
            events = events_of(asking.result().text)

        assert [event.name for event in events] == ["started", "usage", "done"]
        assert as_alice.history(conversation)[-1]["status"] == "stopped"

    def test_a_message_that_is_not_there_is_a_404(
        self, as_alice: Client, conversation: int
    ) -> None:
        path = f"/api/chat/{conversation}/stop"

        assert as_alice.post(path, json={"message_id": 9}).status_code == 404
        assert as_alice.post(path, json={"message_id": "2"}).status_code == 400


class TestContinue:
    def test_the_same_message_grows_on(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(
            as_alice, conversation, provider, reasoning=["Hm"], stall_after=3
        )
        provider.enqueue(Script(reasoning=["Hm!"], pieces=[" there", "!"]))

        events = events_of(do(as_alice, conversation, "continue").text)

        assert text_of(events) == " there!"
        assert events[0].data["message_id"] == 2
        assert events[0].data["text_offset"] == 5
        assert events[-1].id == "2-5-12-end"
        assert said(as_alice, conversation) == ["Hi", "Hello there!"]
        assert "status" not in as_alice.history(conversation)[-1]
        assert Message.objects.get(number=2).reasoning == "HmHm!"

    def test_the_model_is_sent_what_it_said_and_asked_to_go_on(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)

        do(as_alice, conversation, "continue")

        sent = provider.requests[-1].body["messages"][1:]
        assert [m["role"] for m in sent] == ["user", "assistant", "user"]
        assert [m["content"] for m in sent[:2]] == ["Hi", "Hello"]
        assert sent[2]["content"].startswith("Continue exactly")

    def test_an_old_reader_reads_on_after_the_end_it_was_told(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)
        provider.enqueue(Script(pieces=[" there!"]))
        do(as_alice, conversation, "continue")

        rest = as_alice.get(
            f"/api/chat/{conversation}/stream",
            headers={**SSE, "Last-Event-ID": "2-0-5-end"},
        )

        assert text_of(events_of(rest.text)) == " there!"

    @pytest.mark.parametrize(
        ("script", "status"),
        [
            (Script(pieces=["Hello"], finish_reason=None, done=False), "truncated"),
            (Script(pieces=["Hello"], finish_reason="length"), None),
        ],
    )
    def test_it_takes_what_broke_off(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        script: Script,
        status: str | None,
    ) -> None:
        provider.enqueue(script, Script(pieces=[" there!"]))
        as_alice.ask(conversation, "Hi")
        assert as_alice.history(conversation)[-1].get("status") == status

        assert do(as_alice, conversation, "continue", message_id=2).status_code == 200

        assert said(as_alice, conversation) == ["Hi", "Hello there!"]

    def test_what_is_complete_cannot_go_on(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi")

        response = do(as_alice, conversation, "continue")

        assert response.status_code == 409
        assert response.json()["code"] == "nothing_to_continue"

    def test_it_goes_on_when_the_base_it_rests_on_has_gone(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        base = make_base(as_alice)
        added(as_alice, base, BIRDS, name="birds.txt")
        provider.enqueue(Script(pieces=["Hello"], finish_reason="length"))
        asked = {"conversation_id": conversation, "kb_id": base, "message": "Swifts?"}
        as_alice.post("/api/rag/chat", json=asked)
        as_alice.post("/api/rag/kb/delete", json={"kb_id": base})
        provider.enqueue(Script(pieces=[" there!"]))

        assert do(as_alice, conversation, "continue").status_code == 200

        assert said(as_alice, conversation) == ["Swifts?", "Hello there!"]
        assert as_alice.history(conversation)[-1]["sources"][0]["kb_id"] == base
        sent = provider.requests[-1].body["messages"]
        assert [message["role"] for message in sent[-3:]] == [
            *["user", "assistant", "user"]
        ]

    def test_what_only_quotes_does_not_go_on(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["Hello"], finish_reason="length"))
        as_alice.ask(conversation, "Hi")
        as_alice.patch(
            f"/api/conversations/{conversation}", json={"model": "local-quote"}
        )

        response = do(as_alice, conversation, "continue")

        assert response.status_code == 409
        assert response.json()["code"] == "nothing_to_continue"
        assert said(as_alice, conversation) == ["Hi", "Hello"]

    def test_text_never_shrinks_when_going_on_fails(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)
        provider.enqueue(refusal(401))

        assert do(as_alice, conversation, "continue").status_code == 502
        assert said(as_alice, conversation) == ["Hi", "Hello"]
        provider.enqueue(Script(pieces=[" there!"]))
        assert do(as_alice, conversation, "continue").status_code == 200
        assert said(as_alice, conversation) == ["Hi", "Hello there!"]

    def test_only_the_last_answer_can_go_on(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        stopped_answer(as_alice, conversation, provider)
        as_alice.ask(conversation, "And?")

        response = do(as_alice, conversation, "continue", message_id=2)

        assert (response.status_code, response.json()["code"]) == (409, "not_active")


class TestRegenerate:
    def test_a_new_answer_stands_beside_the_old(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["One"]), Script(pieces=["Two"]))
        as_alice.ask(conversation, "Hi")

        events = events_of(do(as_alice, conversation, "regenerate").text)

        assert text_of(events) == "Two"
        assert events[0].data["question_id"] == 1
        history = as_alice.history(conversation)
        assert [m["content"] for m in history] == ["Hi", "Two"]
        assert history[1]["siblings"] == [2, 3]
        assert "siblings" not in history[0]

    def test_the_model_sees_the_path_and_nothing_else(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["One"]), Script(pieces=["Two"]))
        as_alice.ask(conversation, "First")
        as_alice.ask(conversation, "Second")

        do(as_alice, conversation, "regenerate", message_id=2)

        sent = provider.requests[-1].body["messages"]
        assert [m["content"] for m in sent[1:]] == ["First"]
        assert said(as_alice, conversation)[0] == "First"
        assert len(said(as_alice, conversation)) == 2

    def test_an_answer_of_another_branch_is_not_active(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi")
        do(as_alice, conversation, "regenerate")

        response = do(as_alice, conversation, "regenerate", message_id=2)

        assert (response.status_code, response.json()["code"]) == (409, "not_active")

    def test_a_question_is_no_answer(self, as_alice: Client, conversation: int) -> None:
        as_alice.ask(conversation, "Hi")

        assert do(as_alice, conversation, "regenerate", message_id=1).status_code == 400
        assert do(as_alice, conversation, "regenerate", message_id=7).status_code == 404

    def test_nothing_to_write_anew_in_an_empty_conversation(
        self, as_alice: Client, conversation: int
    ) -> None:
        assert do(as_alice, conversation, "regenerate").status_code == 409

    def test_an_answer_from_a_base_is_written_anew_from_it(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        base = make_base(as_alice)
        added(as_alice, base, "Swifts sleep while they fly.")
        as_alice.post(
            "/api/rag/chat",
            json={"conversation_id": conversation, "kb_id": base, "message": "Swifts?"},
        )

        do(as_alice, conversation, "regenerate")
        grounded = provider.requests[-1].body["messages"][-1]["content"]
        do(as_alice, conversation, "regenerate", kb_id=None)
        plain = provider.requests[-1].body["messages"]

        assert "Swifts sleep" in grounded
        assert "Swifts sleep" not in str(plain)

    def test_a_question_is_edited_from_the_base_of_the_answer_that_was_chosen(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        base = make_base(as_alice)
        added(as_alice, base, "Swifts sleep while they fly.")
        as_alice.ask(conversation, "Hi")
        asked = {"conversation_id": conversation, "kb_id": base, "message": "Swifts?"}
        as_alice.post("/api/rag/chat", json=asked)
        do(as_alice, conversation, "regenerate", kb_id=None)
        chosen = {"message_id": 4}
        as_alice.post(f"/api/conversations/{conversation}/branch", json=chosen)

        do(as_alice, conversation, "edit", message_id=3, message="And swifts?")
        grounded = provider.requests[-1].body["messages"][-1]["content"]
        do(as_alice, conversation, "edit", message_id=1, message="Hello")

        assert "Swifts sleep" in grounded
        assert "Swifts sleep" not in str(provider.requests[-1].body["messages"])

    @pytest.mark.parametrize("how", ["regenerated", "edited", "in a copy"])
    def test_who_found_nothing_in_a_base_is_answered_from_it_anew(
        self, as_alice: Client, conversation: int, provider: FakeProvider, how: str
    ) -> None:
        base = make_base(as_alice)
        asked = {"conversation_id": conversation, "kb_id": base, "message": "Swifts?"}
        as_alice.post("/api/rag/chat", json=asked)
        added(as_alice, base, "Swifts sleep while they fly.")
        if how == "in a copy":
            made = as_alice.post(f"/api/conversations/{conversation}/duplicate")
            conversation = made.json()["conversation_id"]

        if how == "edited":
            do(as_alice, conversation, "edit", message_id=1, message="And swifts?")
        else:
            do(as_alice, conversation, "regenerate")

        sent = provider.requests[-1].body["messages"][-1]["content"]
        assert "Swifts sleep" in sent


class TestEdit:
    def test_the_new_question_stands_beside_the_old(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        as_alice.ask(conversation, "First")
        as_alice.ask(conversation, "Secnd")

        response = do(as_alice, conversation, "edit", message_id=3, message="Second")

        assert response.status_code == 200
        history = as_alice.history(conversation)
        assert [m["message_id"] for m in history] == [1, 2, 5, 6]
        assert history[2]["siblings"] == [3, 5]
        sent = provider.requests[-1].body["messages"]
        assert [m["content"] for m in sent[1:]] == ["First", "Hello!", "Second"]

    def test_the_first_question_can_be_edited(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi")

        do(as_alice, conversation, "edit", message_id=1, message="Hello")

        assert said(as_alice, conversation)[0] == "Hello"

    @pytest.mark.parametrize(
        "body",
        [{}, {"message_id": 1}, {"message": "x"}, {"message_id": 2, "message": "x"}],
    )
    def test_it_needs_a_question_and_a_text(
        self, as_alice: Client, conversation: int, body: dict[str, Any]
    ) -> None:
        as_alice.ask(conversation, "Hi")

        assert do(as_alice, conversation, "edit", **body).status_code == 400


class TestBranches:
    def test_choosing_leads_to_the_newest_end_of_that_branch(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "First")
        as_alice.ask(conversation, "Second")
        do(as_alice, conversation, "edit", message_id=1, message="Other")

        path = f"/api/conversations/{conversation}/branch"
        chosen = as_alice.post(path, json={"message_id": 1})

        assert chosen.json()["active_message_id"] == 4
        assert [m["message_id"] for m in as_alice.history(conversation)] == [1, 2, 3, 4]

    def test_the_next_question_follows_on_the_chosen_branch(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["One"]), Script(pieces=["Two"]))
        as_alice.ask(conversation, "Hi")
        do(as_alice, conversation, "regenerate")
        as_alice.post(
            f"/api/conversations/{conversation}/branch", json={"message_id": 2}
        )

        as_alice.ask(conversation, "And?")

        sent = provider.requests[-1].body["messages"]
        assert [m["content"] for m in sent[1:]] == ["Hi", "One", "And?"]

    def test_not_while_an_answer_is_being_written(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["Hello", "!"], stall_after=1))
        path = f"/api/chat/{conversation}"
        with as_alice.stream("POST", path, json={"message": "Hi"}):
            for url, body in [
                (f"/api/conversations/{conversation}/branch", {"message_id": 1}),
                (f"{path}/regenerate", {}),
                (f"{path}/continue", {}),
                (f"{path}/edit", {"message_id": 1, "message": "x"}),
            ]:
                response = as_alice.post(url, json=body)
                assert response.json()["code"] == "answer_in_progress", url
            provider.release_all()

    def test_an_unknown_message_is_a_404(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi")
        path = f"/api/conversations/{conversation}/branch"

        assert as_alice.post(path, json={"message_id": 3}).status_code == 404
        assert as_alice.post(path, json={"message_id": 0}).status_code == 400


@pytest.fixture
def stops_at_leaving(settings: Any) -> None:
    """Nobody writes what nobody reads."""
    chat = replace(settings.CONFIG.chat, on_disconnect="stop")
    settings.CONFIG = replace(settings.CONFIG, chat=chat)


@pytest.mark.usefixtures("stops_at_leaving")
def test_who_leaves_what_was_ends_nothing_of_what_goes_on_with_it(
    as_alice: Client, conversation: int, provider: FakeProvider, served: Served
) -> None:
    provider.enqueue(
        Script(finish_reason="length"), Script(pieces=[" Bye", "!"], stall_after=1)
    )
    as_alice.ask(conversation, "Hi")
    until_idle(served)
    # More than the system takes for a client that reads nothing.
    Message.objects.filter(number=2).update(content="x" * (16 << 20))
    path, again = f"/api/chat/{conversation}", {"last_event_id": "2-0-0"}
    streams = served.application.answers.connections
    with (
        as_alice.stream("GET", f"{path}/stream", params=again) as slow,
        as_alice.stream("POST", f"{path}/continue") as going_on,
    ):
        lines = going_on.iter_lines()
        next(lines)
        slow.close()
        assert eventually(lambda: len(streams) == 1)
        provider.release_all()
        list(lines)

    answer = Message.objects.get(number=2)
    assert (answer.status, answer.content[-6:]) == ("complete", "x Bye!")


@pytest.mark.usefixtures("stops_at_leaving")
def test_an_answer_nobody_reads_is_ended_where_tokens_are_counted(
    as_alice: Client,
    conversation: int,
    provider: FakeProvider,
    served: Served,
) -> None:
    provider.enqueue(Script(pieces=["Hello", "!"], stall_after=1))
    path = f"/api/chat/{conversation}"
    with as_alice.stream("POST", path, json={"message": "Hi"}) as response:
        next(response.iter_lines())

    assert provider.wait_until(lambda: provider.requests[0].client_left_at is not None)
    until_idle(served)
    assert as_alice.history(conversation)[-1]["status"] == "stopped"


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**63, 10**30])
def test_a_number_no_message_has_is_a_404(
    as_alice: Client, conversation: int, number: int
) -> None:
    as_alice.ask(conversation, "Hi")
    branch = f"/api/conversations/{conversation}/branch"
    history = f"/api/conversations/history/{conversation}"
    body = {"message_id": number}

    refused = [
        do(as_alice, conversation, "regenerate", **body),
        do(as_alice, conversation, "continue", **body),
        do(as_alice, conversation, "edit", message="Ho", **body),
        as_alice.post(f"/api/chat/{conversation}/stop", json=body),
        as_alice.post(branch, json=body),
        as_alice.get(history, params={"before_message_id": number}),
    ]

    assert [answer.status_code for answer in refused] == [404] * len(refused)


@pytest.mark.parametrize("number", [2**53, 10**18, 10**19, 10**30])
def test_a_number_no_conversation_has_is_a_404(as_alice: Client, number: int) -> None:
    base = make_base(as_alice)
    body = {"message": "Hi", "kb_id": base, "conversation_id": number}
    refused = [
        as_alice.post(f"/api/chat/{number}", json={"message": "Hi"}),
        as_alice.post(f"/api/chat/{number}/stop"),
        as_alice.get(f"/api/chat/{number}/stream"),
        as_alice.get(f"/api/conversations/history/{number}"),
        as_alice.post("/api/rag/chat", json=body),
    ]

    assert [answer.status_code for answer in refused] == [404] * len(refused)
