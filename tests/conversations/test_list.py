"""GET /api/conversations/list."""

from datetime import UTC, datetime, timedelta

import pytest

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


def ids_of(response):
    return [row["conversation_id"] for row in response.json()]


class TestPages:
    @pytest.fixture
    def all_ids(self, alice):
        """25 conversations, newest first, many of one and the same time."""
        now = datetime.now(UTC)
        made = [
            make_conversation(alice, updated_at=now - timedelta(seconds=n // 7))
            for n in range(25)
        ]
        made.sort(key=lambda one: (one.updated_at, one.pk), reverse=True)
        return [one.pk for one in made]

    @pytest.mark.parametrize("limit", [1, 6, 7, 24, 25, 200])
    def test_together_they_are_the_whole_list(self, as_alice, all_ids, limit):
        pages, query = [], {"limit": limit}
        while True:
            response = as_alice.get(PATH, params=query)
            pages.append(ids_of(response))
            if "X-Next-Before" not in response.headers:
                break
            query["before"] = response.headers["X-Next-Before"]

        assert [pk for page in pages for pk in page] == all_ids
        assert all(len(page) == limit for page in pages[:-1])
        assert 0 < len(pages[-1]) <= limit

    def test_a_place_without_a_limit_is_all_that_is_older(self, as_alice, all_ids):
        response = as_alice.get(PATH, params={"before": all_ids[9]})

        assert ids_of(response) == all_ids[10:]
        assert "X-Next-Before" not in response.headers

    def test_nothing_is_older_than_the_oldest(self, as_alice, all_ids):
        response = as_alice.get(PATH, params={"before": all_ids[-1], "limit": 5})

        assert response.text == "[]"

    def test_a_place_that_is_not_ones_own_is_a_404(self, as_alice, as_mallory, all_ids):
        for before in (all_ids[0], 4711):
            response = as_mallory.get(PATH, params={"before": before})
            assert response.status_code == 404

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=201", "limit=x", "before=0", "before=x"]
    )
    def test_what_is_no_page_is_a_400(self, as_alice, query):
        response = as_alice.get(f"{PATH}?{query}")

        assert response.status_code == 400
        assert response.json()["error"].startswith(query.partition("=")[0])
