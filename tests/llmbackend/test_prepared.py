"""Statements written once, beside what the ORM does with the same query."""

from __future__ import annotations

import sqlite3
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from conversations.models import Conversation, Message, Usage, Writer
from llmbackend.prepared import Insert, Select, SelectObject, Update, given
from tests.conftest import make_user


@pytest.fixture
def alice(database: None) -> Any:
    return make_user("alice")


@pytest.fixture
def conversation(alice: Any) -> Conversation:
    return conversation_of(alice, "Rust")


def conversation_of(owner: Any, title: str) -> Conversation:
    now = timezone.now()
    return Conversation.objects.create(
        owner=owner, title=title, model="gpt-4o", created_at=now, updated_at=now
    )


OWNED = Select(
    lambda: (
        Conversation.objects.owned_by(given(Conversation, "owner"))
        .newest_first()
        .values_list("pk", "title", "created_at")
    )
)


def test_rows_are_converted_as_the_orm_does(alice: Any) -> None:
    for title in ["a", "%s", "后"]:
        conversation_of(alice, title)
    rows = list(
        Conversation.objects.owned_by(alice)
        .newest_first()
        .values_list("pk", "title", "created_at")
    )

    assert OWNED.rows(owner=alice.pk) == rows
    assert OWNED.rows(owner=alice.pk, limit=2) == rows[:2]
    assert OWNED.row(owner=alice.pk) == rows[0]
    assert OWNED.rows(owner=alice.pk + 1) == []
    assert OWNED.row(owner=alice.pk + 1) is None


def test_each_call_has_values_of_its_own(alice: Any, conversation: Any) -> None:
    bob = make_user("bob")
    his = conversation_of(bob, "Go")

    assert [row[0] for row in OWNED.rows(owner=alice.pk)] == [conversation.pk]
    assert [row[0] for row in OWNED.rows(owner=bob.pk)] == [his.pk]


def test_an_object_is_whole(conversation: Any) -> None:
    select = SelectObject(
        lambda: Conversation.objects.filter(pk=given(Conversation, "id"))
    )

    found = select.first(id=conversation.pk)

    assert found is not None
    assert vars(found).keys() == vars(Conversation.objects.get()).keys()
    assert {**vars(found), "_state": None} == {
        **vars(Conversation.objects.get()),
        "_state": None,
    }
    assert not found._state.adding
    assert select.first(id=conversation.pk + 1) is None


def test_an_inserted_row_is_what_create_makes(conversation: Any) -> None:
    writer = Writer.objects.create(host="h", pid=1, heartbeat_at=timezone.now())
    fields = {
        "conversation_id": conversation.pk,
        "role": "assistant",
        "content": "100 % of it, 'quoted' \\ 世界",
        "sources": [{"id": 1, "text": "世"}],
        "first_token_at": timezone.now() - timedelta(days=1),
        "created_at": timezone.now(),
        "writer_id": writer.pk,
    }

    key = Insert(Message, "number", *fields).make(number=1, **fields)

    twin = Message.objects.create(number=2, **fields)
    stored, [expected] = (
        Message.objects.get(pk=key),
        Message.objects.filter(number=2),
    )
    for field in Message._meta.concrete_fields:
        if field.name not in {"id", "number"}:
            assert getattr(stored, field.attname) == getattr(expected, field.attname)
    assert twin.pk > key


def test_what_the_database_refuses_is_one_of_djangos_errors(conversation: Any) -> None:
    fields = {"conversation_id": conversation.pk, "number": 1, "role": "user"}
    insert = Insert(Message, *fields, "created_at")
    insert.make(**fields, created_at=timezone.now())

    with pytest.raises(IntegrityError), transaction.atomic():
        insert.make(**fields, created_at=timezone.now())

    assert Message.objects.count() == 1


def test_in_a_broken_transaction_nothing_more_is_asked(alice: Any) -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            OWNED.rows(owner=alice.pk)


def test_a_row_that_has_its_key_keeps_it(alice: Any) -> None:
    now = timezone.now()
    new = Conversation(
        owner=alice, title="T", model="m", created_at=now, updated_at=now
    )
    key = new.pk

    Insert(Conversation).run(new)

    assert Conversation.objects.get().pk == new.pk == key
    new.title = "U"
    new.save()  # It is known to be stored.
    assert Conversation.objects.get().title == "U"


def test_an_update_says_how_many_rows_there_were(alice: Any) -> None:
    usage = Usage.objects.create(owner=alice, day="2026-01-02", model="m", answers=3)
    update = Update(
        lambda: Usage.objects.filter(
            owner=given(Usage, "owner"), day=given(Usage, "day")
        ),
        lambda: {"answers": F("answers") + given(Usage, "answers"), "model": "n"},
    )

    assert update.run(owner=alice.pk, day=usage.day, answers=4) == 1
    assert update.run(owner=alice.pk + 1, day=usage.day, answers=4) == 0
    usage.refresh_from_db()
    assert (usage.answers, usage.model) == (7, "n")


def test_values_are_stored_as_their_fields_store_them(conversation: Any) -> None:
    pk = uuid.uuid4()
    writer = Writer.objects.create(pk=pk, host="h", pid=1, heartbeat_at=timezone.now())
    found = Select(lambda: Writer.objects.filter(pk=given(Writer, "id")).values_list())

    assert found.rows(id=pk) == list(Writer.objects.values_list())
    assert found.rows(id=str(pk)) == found.rows(id=pk)
    assert writer.pk == pk


@pytest.mark.parametrize("title", ["it's 100 %, ?", "%s", "''", "\\", "后"])
def test_what_is_always_the_same_is_told_as_it_is(alice: Any, title: str) -> None:
    for each in (title, "another"):
        conversation_of(alice, each)
    fixed = Select(
        lambda: Conversation.objects.filter(
            title=title, version=0, owner=given(Conversation, "owner")
        ).values_list("title", "version")
    )

    assert fixed.rows(owner=alice.pk) == [(title, 0)]
    assert fixed.rows(owner=alice.pk + 1) == []


@pytest.mark.parametrize(
    "moment",
    [
        timezone.now(),
        timezone.now().replace(microsecond=0),
        timezone.now().astimezone(timezone.get_fixed_timezone(-330)),
    ],
)
def test_a_moment_is_stored_as_the_orm_stores_it(alice: Any, moment: Any) -> None:
    insert = Insert(Message, "conversation_id", "number", "role", "created_at")
    conversation = conversation_of(alice, "Rust").pk

    insert.make(
        conversation_id=conversation,
        number=1,
        role=Message.Role.USER,
        created_at=moment,
    )

    Message.objects.create(
        conversation_id=conversation, number=2, role="user", created_at=moment
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT created_at, role FROM conversations_message")
        stored, expected = cursor.fetchall()
    assert stored == expected


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="Only SQLite plans anew.")
def test_a_statement_is_planned_once(conversation: Any) -> None:
    """Also where a value decides whether the index of running answers will do."""
    running = Select(
        lambda: Message.objects.filter(
            conversation=given(Message, "conversation"), status="streaming"
        ).values_list("number")
    )
    running.rows(conversation=conversation.pk)
    planned = []

    def authorize(*what: Any) -> int:
        planned.append(what)
        return sqlite3.SQLITE_OK

    connection.connection.set_authorizer(authorize)
    try:
        running.rows(conversation=conversation.pk)
        assert planned  # As it is once more where there is a new authorizer.
        del planned[:]
        running.rows(conversation=conversation.pk)
        running.rows(conversation=conversation.pk + 1)
    finally:
        connection.connection.set_authorizer(None)

    assert planned == []


def test_a_missing_value_is_a_mistake(conversation: Any) -> None:
    with pytest.raises(KeyError, match="owner"):
        OWNED.rows()
