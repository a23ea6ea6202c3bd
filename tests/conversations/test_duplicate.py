"""POST /api/conversations/:conversation_id/duplicate."""

from __future__ import annotations

import pytest

from conversations import segments
from conversations.models import Conversation, Message, Usage
from tests.conftest import client_with, make_key
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)
from tests.fake_provider import Script, refusal

NOT_COPIED = ("id", "conversation_id", "parent_id", "writer_id", "segment_id")


def duplicate(client, conversation, **headers):
    path = f"/api/conversations/{conversation}/duplicate"
    return client.post(path, headers=headers)


def rows_of(conversation):
    """Its messages, with the numbers of those they stand under."""
    messages = Message.objects.filter(conversation=conversation).order_by("number")
    rows = list(messages.values())
    numbers = {row["id"]: row["number"] for row in rows}
    return [
        {
            **{name: v for name, v in row.items() if name not in NOT_COPIED},
            "parent": numbers.get(row["parent_id"]),
        }
        for row in rows
    ]


@pytest.fixture
def branched(as_alice, provider):
    """A conversation with three branches, one answer of which failed."""
    conversation = as_alice.conversation(title="Swifts", api_key="sk-own-key")
    as_alice.patch(
        f"/api/conversations/{conversation}",
        json={"system_prompt": "", "temperature": 0.5, "top_p": 0.5, "max_tokens": 9},
    )
    provider.enqueue(Script(pieces=["They ", "glide."]), refusal(401))
    as_alice.ask(conversation, "How do swifts sleep?")
    edit = {"message_id": 1, "message": "Do swifts sleep?"}
    as_alice.post(f"/api/chat/{conversation}/edit", json=edit)
    as_alice.post(f"/api/chat/{conversation}/regenerate", json={})
    as_alice.ask(conversation, "And gulls?")
    return conversation


def test_copies_settings_and_every_branch(as_alice, branched):
    response = duplicate(as_alice, branched)

    assert response.status_code == 200
    copy = response.json()
    assert copy.pop("conversation_id") != branched
    original = as_alice.get(f"/api/conversations/{branched}").json()
    for name in original.keys() - {"conversation_id", "created_time", "updated_time"}:
        assert copy[name] == original[name]
    assert (copy["has_api_key"], copy["max_tokens"]) == (True, 9)
    made = Conversation.objects.exclude(pk=branched).get()
    assert rows_of(made) == rows_of(branched)
    assert len(rows_of(made)) == 7
    assert as_alice.history(made.pk) == as_alice.history(branched)


def test_the_copy_goes_on_by_itself(as_alice, branched, provider):
    before = as_alice.history(branched)
    copy = duplicate(as_alice, branched).json()["conversation_id"]

    as_alice.ask(copy, "And terns?")
    as_alice.post(f"/api/conversations/{copy}/branch", json={"message_id": 1})

    assert as_alice.history(branched) == before
    assert [m["message_id"] for m in as_alice.history(copy)] == [1, 2]
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-own-key"
    as_alice.post(f"/api/conversations/del/{branched}")
    assert len(as_alice.history(copy)) == 2


def test_the_copy_is_the_latest_and_cost_nothing(as_alice, branched):
    spent = list(Usage.objects.values())

    copy = duplicate(as_alice, branched).json()["conversation_id"]

    listed = as_alice.get("/api/conversations/list").json()
    assert [row["conversation_id"] for row in listed] == [copy, branched]
    assert list(Usage.objects.values()) == spent


def test_an_empty_one_can_be_copied(as_alice):
    copy = duplicate(as_alice, as_alice.conversation()).json()["conversation_id"]

    assert as_alice.history(copy) == []
    as_alice.ask(copy, "Hi")
    assert len(as_alice.history(copy)) == 2


def test_a_long_one_is_copied_whole(as_alice, alice):
    conversation = make_conversation(alice)
    make_turns(conversation, *["Text"] * 450)

    copy = duplicate(as_alice, conversation.pk).json()["conversation_id"]

    assert rows_of(copy) == rows_of(conversation)


def test_a_copy_of_what_is_indexed_is_found_by_itself(as_alice, alice):
    conversation = make_conversation(alice)
    make_turns(conversation, *["Swifts"] * segments.MESSAGES)
    search = "/api/conversations/search?q=swifts&limit=1"
    as_alice.get(search)
    assert not segments.unindexed(alice).exists()

    copy = duplicate(as_alice, conversation.pk).json()["conversation_id"]

    assert as_alice.get(search).json()[0]["conversation_id"] == copy


def test_while_an_answer_is_written_it_is_a_409(as_alice, alice):
    conversation = make_conversation(alice)
    make_streaming(conversation, writer=make_writer())

    response = duplicate(as_alice, conversation.pk)

    assert response.status_code == 409
    assert response.json()["code"] == "answer_in_progress"
    assert Conversation.objects.count() == 1


def test_an_answer_whose_writer_is_dead_is_no_hindrance(as_alice, alice):
    conversation = make_conversation(alice)
    make_streaming(conversation, writer=make_writer(silent=60), content="Swifts")

    copy = duplicate(as_alice, conversation.pk).json()["conversation_id"]

    assert as_alice.history(copy)[1]["status"] == "interrupted"


def test_sent_twice_one_copy_is_made(as_alice, branched):
    first, again = (
        duplicate(as_alice, branched, **{"Idempotency-Key": "k"}) for _ in range(2)
    )

    assert first.json() == again.json()
    assert Conversation.objects.count() == 2
    other = duplicate(as_alice, as_alice.conversation(), **{"Idempotency-Key": "k"})
    assert other.status_code == 422


def test_a_key_that_may_not_use_the_model_makes_no_copy(server, alice, branched):
    _, text = make_key(alice, "chat", chat_models=["glm*"])
    with client_with(server, text) as client:
        assert duplicate(client, branched).status_code == 403
    assert Conversation.objects.count() == 1
