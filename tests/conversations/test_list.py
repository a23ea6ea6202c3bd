"""GET /api/conversations/list."""

from datetime import UTC, datetime, timedelta

from conversations.models import Conversation
from tests.conversations.conftest import make_conversation

PATH = "/api/conversations/list"


def test_is_an_empty_array_for_who_has_none(as_alice):
    response = as_alice.get(PATH)

    assert response.status_code == 200
    assert response.text == "[]"


def test_is_a_bare_array_of_the_documented_objects(as_alice, alice):
    made = datetime(2024, 11, 17, 13, 55, 29, 900_000, tzinfo=UTC)
    conversation = make_conversation(alice, title="会话", created_at=made)

    response = as_alice.get(PATH)

    assert response.json() == [
        {
            "conversation_id": conversation.pk,
            "title": "会话",
            "created_time": 1731851729,
        }
    ]
    assert list(response.json()[0]) == ["conversation_id", "title", "created_time"]
    assert response.headers["content-type"] == "application/json"


def test_the_latest_turn_comes_first(as_alice):
    first, second, third = (as_alice.conversation() for _ in range(3))

    as_alice.ask(first, "Hi")

    listed = [row["conversation_id"] for row in as_alice.get(PATH).json()]
    assert listed == [first, third, second]


def test_equal_times_are_ordered_by_id(as_alice, alice):
    now = datetime.now(UTC)
    made = [make_conversation(alice, updated_at=now).pk for _ in range(10)]

    listed = [row["conversation_id"] for row in as_alice.get(PATH).json()]

    assert listed == sorted(made, reverse=True)


def test_holds_only_ones_own(as_alice, as_mallory, mallory):
    hers = as_alice.conversation()
    other = make_conversation(mallory)

    listed = [row["conversation_id"] for row in as_alice.get(PATH).json()]

    assert listed == [hers]
    theirs = [row["conversation_id"] for row in as_mallory.get(PATH).json()]
    assert theirs == [other.pk]


def test_lacks_what_was_deleted(as_alice):
    gone, kept = as_alice.conversation(), as_alice.conversation()

    as_alice.post(f"/api/conversations/del/{gone}")

    assert [row["conversation_id"] for row in as_alice.get(PATH).json()] == [kept]


def test_costs_one_statement_beyond_who_asks(as_alice, alice, statements):
    now = datetime.now(UTC)
    Conversation.objects.bulk_create(
        Conversation(
            owner=alice,
            title=f"Number {n}",
            model="gpt-4o",
            created_at=now,
            updated_at=now - timedelta(seconds=n),
        )
        for n in range(300)
    )

    listed = as_alice.get(PATH).json()

    assert [row["title"] for row in listed] == [f"Number {n}" for n in range(300)]
    assert len(statements) == 2
