"""POST /api/conversations/del/<conversation_id>."""

import pytest

from conversations.models import Conversation, Message
from tests.conversations.conftest import make_conversation, make_turns

PATH = "/api/conversations/del/{}"


def test_answers_as_the_seed_documents(as_alice):
    conversation = as_alice.conversation()

    response = as_alice.post(PATH.format(conversation))

    assert response.status_code == 200
    assert response.json() == {"message": "Conversation deleted successfully"}


def test_leaves_no_row_and_nothing_to_read_or_ask(as_alice):
    conversation = as_alice.conversation()
    as_alice.ask(conversation, "Hi")

    as_alice.post(PATH.format(conversation))

    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    history = as_alice.get(f"/api/conversations/history/{conversation}")
    assert history.status_code == 404
    assert as_alice.ask(conversation, "Still there?").status_code == 404
    assert as_alice.get("/api/conversations/list").json() == []


def test_a_second_time_is_a_404(as_alice):
    conversation = as_alice.conversation()
    as_alice.post(PATH.format(conversation))

    response = as_alice.post(PATH.format(conversation))

    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


def test_anothers_conversation_stays_and_is_told_from_none_by_nothing(
    as_alice, as_mallory
):
    conversation = as_alice.conversation()
    as_alice.ask(conversation, "Hi")

    foreign = as_mallory.post(PATH.format(conversation))
    unknown = as_mallory.post(PATH.format(4711))

    assert foreign.status_code == unknown.status_code == 404
    bodies = [{**answer.json(), "request_id": ""} for answer in (foreign, unknown)]
    assert bodies[0] == bodies[1]
    assert len(as_alice.history(conversation)) == 2


def test_leaves_ones_other_conversations_alone(as_alice):
    gone, kept = as_alice.conversation(), as_alice.conversation()
    as_alice.ask(gone, "Hi")
    as_alice.ask(kept, "Hi")

    as_alice.post(PATH.format(gone))

    assert len(as_alice.history(kept)) == 2


def test_the_body_is_not_looked_at(as_alice):
    conversation = as_alice.conversation()

    response = as_alice.post(PATH.format(conversation), content="{not json")

    assert response.status_code == 200


@pytest.mark.parametrize("turns", [1, 250])
def test_costs_six_statements_beyond_who_asks(as_alice, alice, statements, turns):
    conversation = make_conversation(alice)
    make_turns(conversation, *["Text"] * turns)

    as_alice.post(PATH.format(conversation.pk))

    assert not Message.objects.exists()
    assert [sql.split()[0] for sql in statements] == [
        *["SELECT", "SELECT", "INSERT", *["SELECT"] * 2, "DELETE", "DELETE"]
    ]


def test_a_user_goes_with_all_that_was_said(as_alice, alice):
    as_alice.ask(as_alice.conversation(), "Hi")

    alice.delete()

    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
