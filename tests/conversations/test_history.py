"""GET /api/conversations/history/<conversation_id>."""

import uuid

import pytest
from django.db import connection

from conversations.history import history
from conversations.models import Conversation, Message
from llmbackend.errors import NotFound
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)
from tests.fake_provider import Script, refusal

PATH = "/api/conversations/history/{}"


def test_answers_as_the_seed_documents(as_alice, provider):
    provider.default = Script(pieces=["Rust ", "是一种系统编程语言"])
    conversation = as_alice.conversation(title="My New Conversation")
    as_alice.ask(conversation, "介绍一下RUST")
    as_alice.ask(conversation, "Wirklich?")

    response = as_alice.get(PATH.format(conversation))

    assert response.status_code == 200
    created = Conversation.objects.get().created_at
    answer = "Rust 是一种系统编程语言"
    assert response.json() == {
        "conversation_id": conversation,
        "title": "My New Conversation",
        "model": "gpt-4o",
        "messages": [
            {"role": "user", "content": "介绍一下RUST", "message_id": 1},
            {"role": "assistant", "content": answer, "message_id": 2},
            {"role": "user", "content": "Wirklich?", "message_id": 3},
            {"role": "assistant", "content": answer, "message_id": 4},
        ],
        "created_time": int(created.timestamp()),
    }
    assert list(response.json()) == [
        *["conversation_id", "title", "model", "messages", "created_time"]
    ]


def test_has_no_messages_before_the_first_question(as_alice):
    conversation = as_alice.conversation()

    assert as_alice.get(PATH.format(conversation)).json()["messages"] == []


@pytest.mark.parametrize(
    "status", ["stopped", "truncated", "failed", "interrupted", "streaming"]
)
def test_shows_the_status_of_an_answer_that_is_not_complete(as_alice, alice, status):
    conversation = make_conversation(alice)
    writer = make_writer() if status == "streaming" else None
    answer = make_streaming(conversation, writer=writer, content="So far")
    Message.objects.filter(pk=answer.pk).update(status=status)

    messages = as_alice.history(conversation.pk)

    assert messages == [
        {"role": "user", "content": "1", "message_id": 1},
        {
            "role": "assistant",
            "content": "So far",
            "message_id": 2,
            "status": status,
        },
    ]


def test_shows_the_sources_of_an_answer_that_has_some(as_alice, alice):
    conversation = make_conversation(alice)
    make_turns(conversation, "Grounded", "Plain")
    sources = [{"doc_name": "合同.docx", "score": 0.85}]
    Message.objects.filter(number=2).update(sources=sources)

    messages = as_alice.history(conversation.pk)

    assert messages[1] == {
        "role": "assistant",
        "content": "Grounded",
        "message_id": 2,
        "sources": sources,
    }
    assert "sources" not in messages[3]


def test_keeps_the_question_of_a_turn_that_failed(as_alice, provider):
    conversation = as_alice.conversation()
    provider.enqueue(refusal(400))
    as_alice.ask(conversation, "Lost?")

    messages = as_alice.history(conversation)

    assert messages[0] == {"role": "user", "content": "Lost?", "message_id": 1}
    assert (messages[1]["status"], messages[1]["content"]) == ("failed", "")


def test_follows_the_active_branch(as_alice, alice):
    conversation = make_conversation(alice)
    make_turns(conversation, "First", "Left")
    left = Message.objects.get(number=4)
    right = Message.objects.create(
        conversation=conversation,
        number=5,
        parent_id=left.parent_id,
        role="assistant",
        content="Right",
        created_at=left.created_at,
    )
    conversation.active_leaf = right
    conversation.save()

    messages = as_alice.history(conversation.pk)

    assert [message["message_id"] for message in messages] == [1, 2, 3, 5]
    assert messages[-1]["content"] == "Right"


def test_an_answer_whose_writer_is_dead_reads_as_interrupted(as_alice, alice):
    conversation = make_conversation(alice)
    make_streaming(conversation, writer=make_writer(silent=7), content="So fa")

    messages = as_alice.history(conversation.pk)

    assert messages[1]["status"] == "interrupted"
    assert messages[1]["content"] == "So fa"
    assert not Message.objects.filter(status="streaming").exists()


@pytest.mark.parametrize("ends", ["complete", "deleted"])
def test_an_answer_that_ends_while_it_is_read(alice, ends):
    conversation = make_conversation(alice)
    answer = make_streaming(conversation, writer=make_writer(), content="So far")
    rows = Message.objects.filter(pk=answer.pk)
    seen = []

    def end_first(execute, sql, params, many, context):
        seen.append(sql)
        if len(seen) == 2:  # The first has found it streaming.
            conversation.delete() if ends == "deleted" else rows.update(status=ends)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(end_first):
        if ends == "deleted":
            with pytest.raises(NotFound):
                history(user=alice, conversation_id=conversation.pk)
            return
        _, messages = history(user=alice, conversation_id=conversation.pk)

    assert [message.status for message in messages] == ["complete", "complete"]
    assert messages[1].content == "So far"


def test_text_of_every_kind_comes_back_as_it_was(as_alice, provider):
    text = 'quote " backslash \\ newline\n tab\t <b> 😀 \u2028 {"event":"forged"}'
    provider.default = Script(pieces=[text])
    conversation = as_alice.conversation()
    as_alice.ask(conversation, text)

    messages = as_alice.history(conversation)

    assert [message["content"] for message in messages] == [text, text]


@pytest.mark.parametrize(
    "name",
    [
        "1",
        "0",
        "-1",
        str(2**53),
        str(2**63),
        "9" * 40,
        "abc",
        "1.0",
        "1e3",
        "0x10",
        "１２",
        "%00",
        "1%0a",
        " 1",
        "..%2f..%2fetc",
        str(uuid.UUID(int=1)),
    ],
)
@pytest.mark.parametrize("method_and_path", ["GET history", "POST del"])
def test_what_names_no_conversation_is_a_404(as_alice, name, method_and_path):
    method, verb = method_and_path.split()

    response = as_alice.request(method, f"/api/conversations/{verb}/{name}")

    assert response.status_code == 404
    body = response.json()
    assert body.pop("request_id")
    assert body == {"error": "There is nothing here.", "code": "not_found"}


def test_anothers_conversation_is_told_from_none_by_nothing(as_alice, as_mallory):
    conversation = as_alice.conversation()

    foreign = as_mallory.get(PATH.format(conversation))
    unknown = as_mallory.get(PATH.format(4711))

    assert foreign.status_code == unknown.status_code == 404
    bodies = [{**answer.json(), "request_id": ""} for answer in (foreign, unknown)]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("turns", [1, 250])
def test_costs_two_statements_beyond_who_asks(as_alice, alice, statements, turns):
    conversation = make_conversation(alice)
    make_turns(conversation, *["Text"] * turns)

    messages = as_alice.history(conversation.pk)

    assert [message["message_id"] for message in messages] == [*range(1, 2 * turns + 1)]
    assert len(statements) == 3


class TestPages:
    @pytest.fixture
    def conversation(self, alice):
        conversation = make_conversation(alice)
        make_turns(conversation, *(f"Answer {n}" for n in range(6)))
        return conversation.pk

    def page(self, client, conversation, **query):
        response = client.get(PATH.format(conversation), params=query)
        ids = [message["message_id"] for message in response.json()["messages"]]
        return ids, response.headers.get("X-Next-Before")

    def test_the_last_ones_come_first(self, as_alice, conversation):
        assert self.page(as_alice, conversation, limit=5) == ([8, 9, 10, 11, 12], "8")

    def test_then_those_before_them(self, as_alice, conversation):
        older = self.page(as_alice, conversation, limit=5, before_message_id=8)
        oldest = self.page(as_alice, conversation, limit=5, before_message_id=3)

        assert older == ([3, 4, 5, 6, 7], "3")
        assert oldest == ([1, 2], None)

    def test_without_a_limit_all_before_a_message(self, as_alice, conversation):
        assert self.page(as_alice, conversation, before_message_id=4) == (
            [1, 2, 3],
            None,
        )

    def test_nothing_is_before_the_first(self, as_alice, conversation):
        found = self.page(as_alice, conversation, before_message_id=1, limit=5)

        assert found == ([], None)

    def test_a_message_of_another_branch_is_a_409(self, as_alice, conversation):
        edit = {"message_id": 3, "message": "Otherwise?"}
        as_alice.post(f"/api/chat/{conversation}/edit", json=edit)

        response = as_alice.get(
            PATH.format(conversation), params={"before_message_id": 9}
        )

        assert response.status_code == 409
        assert response.json()["code"] == "not_active"
        found = self.page(as_alice, conversation, before_message_id=13)
        assert found == ([1, 2], None)

    def test_a_message_that_is_not_there_is_a_404(self, as_alice, conversation):
        response = as_alice.get(
            PATH.format(conversation), params={"before_message_id": 13}
        )

        assert response.status_code == 404

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=201", "before_message_id=x", "before_message_id=0"]
    )
    def test_what_is_no_page_is_a_400(self, as_alice, conversation, query):
        response = as_alice.get(f"{PATH.format(conversation)}?{query}")

        assert response.status_code == 400
