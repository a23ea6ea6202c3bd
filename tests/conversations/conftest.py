"""What tests of conversations share: rows made directly, statements counted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from conversations.models import Conversation, Message, Writer

QUERIES = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that requests ran since, on whatever thread they were served."""
    seen: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(QUERIES):
            seen.append(sql)
        return execute(sql, params, many, context)

    def watch(**signal: Any) -> None:
        connection.execute_wrappers.append(note)

    def unwatch(**signal: Any) -> None:
        if note in connection.execute_wrappers:
            connection.execute_wrappers.remove(note)

    # Both are sent on the thread that serves the request; of what is committed together
    # with other requests, only the second is.
    request_started.connect(watch)
    request_finished.connect(unwatch)
    yield seen
    request_started.disconnect(watch)
    request_finished.disconnect(unwatch)


def make_conversation(owner: Any, **fields: Any) -> Conversation:
    now = timezone.now()
    given = {"title": "Rust", "model": "gpt-4o", "created_at": now, "updated_at": now}
    return Conversation.objects.create(owner=owner, **{**given, **fields})


def make_turns(conversation: Conversation, *answers: str) -> None:
    """Closed turns: questions "1", "3", ... and `answers` to them."""
    now = timezone.now()
    number, leaf = 0, conversation.active_leaf
    for text in answers:
        for role, content in (("user", f"{number + 1}"), ("assistant", text)):
            number += 1
            leaf = Message.objects.create(
                conversation=conversation,
                number=number,
                parent=leaf,
                role=role,
                content=content,
                created_at=now,
            )
    conversation.active_leaf = leaf
    conversation.version += 1
    conversation.save()


def make_writer(*, silent: float = -60.0) -> uuid.UUID:
    """
    A serving process that was last heard of `silent` seconds ago; else one that lives
    however long a test takes, for the server beside it ends what the dead left.
    """
    writer = Writer.objects.create(
        host="elsewhere", pid=1, heartbeat_at=Now() - timedelta(seconds=silent)
    )
    return writer.pk


def make_streaming(
    conversation: Conversation, *, writer: uuid.UUID | None, content: str = ""
) -> Message:
    """A question and an answer that `writer` writes, or nobody."""
    make_turns(conversation, content)
    answer = conversation.active_leaf
    assert answer is not None
    answer.status = Message.Status.STREAMING
    answer.writer_id = writer
    answer.save()
    return answer
