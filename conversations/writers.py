"""Serving processes and the answers they write: heartbeat, checkpoint, take-over."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from conversations.models import Conversation, Message, Writer
from conversations.usage import note_interrupted
from llmbackend import metrics
from llmbackend.prepared import Parameter, Select, Update, given

logger = logging.getLogger(__name__)

SILENT = timedelta(seconds=6)
JUST_NOW = timedelta(seconds=1)
FORGOTTEN = timedelta(hours=1)
STREAMING = Message.Status.STREAMING


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The whole text of an answer so far."""

    answer_pk: int
    text: str
    reasoning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Which answers a writer still holds, and which of them are to be stopped."""

    open: frozenset[int]
    to_stop: frozenset[int]


def beat_if_silent(writer: uuid.UUID) -> None:
    """
    `beat`, unless that was just now.

    Of answers that are begun together, not each has to wait for the same row.
    """
    beaten = _LAST_BEAT.row(id=writer)
    if beaten is not None:
        last, now = beaten
        if now - last < JUST_NOW:
            return
    beat(writer)


_LAST_BEAT = Select(
    lambda: Writer.objects.filter(pk=given(Writer, "id")).values_list(
        "heartbeat_at", Now()
    )
)


def beat(writer: uuid.UUID) -> None:
    """Say that `writer` lives, in the caller's transaction; adds its row if need be."""
    if _BEAT.run(id=writer):
        return
    now = Writer(
        pk=writer, host=socket.gethostname(), pid=os.getpid(), heartbeat_at=Now()
    )
    Writer.objects.bulk_create(
        [now],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["heartbeat_at"],
    )


_BEAT = Update(
    lambda: Writer.objects.filter(pk=given(Writer, "id")),
    lambda: {"heartbeat_at": Now()},
)


def tick(*, writer: uuid.UUID, grown: Sequence[Growth]) -> Held:
    """One heartbeat: store what grew, see what to stop, end what the dead left."""
    held = _checkpoint(writer, grown)
    # Not in one transaction with the texts: it locks conversations, and who holds
    # one may be waiting for this writer's row. After them: it must find us alive.
    interrupt_orphans()
    return held


@transaction.atomic
def _checkpoint(writer: uuid.UUID, grown: Sequence[Growth]) -> Held:
    beat(writer)
    for growth in grown:
        _GROWN.run(
            id=growth.answer_pk,
            writer=writer,
            content=growth.text,
            reasoning=growth.reasoning,
        )
    rows = _HELD.rows(writer=writer)
    return Held(
        open=frozenset(pk for pk, _ in rows),
        to_stop=frozenset(pk for pk, stop in rows if stop),
    )


def held_by(writer: uuid.UUID | Parameter) -> QuerySet[Message]:
    """The answers `writer` may still write: every write of an answer goes through."""
    return Message.objects.filter(status=STREAMING, writer=writer)


def _held() -> QuerySet[Message]:
    return held_by(given(Message, "writer"))


_HELD = Select(lambda: _held().values_list("pk", "stop_requested"))
_GROWN = Update(
    lambda: _held().filter(pk=given(Message, "id")),
    lambda: {name: given(Message, name) for name in ("content", "reasoning")},
)


def give_up(writer: uuid.UUID, answer_pks: Sequence[int]) -> None:
    """Leave answers that `writer` does not write to whoever ends those of the dead."""
    held_by(writer).filter(pk__in=answer_pks).update(writer=None)


def orphans() -> QuerySet[Message]:
    """The answers whose writer is dead, or has no row any more."""
    return Message.objects.filter(
        Q(writer=None) | Q(writer__heartbeat_at__lt=Now() - SILENT), status=STREAMING
    )


def interrupt_orphans(
    *, conversation_id: int | None = None, owner_id: int | None = None
) -> int:
    """
    End as `interrupted` the answers whose writer is dead; how many there were.

    Only those of a conversation, or of a user, if one is named. Costs one read when
    there are none.
    """
    left = orphans()
    if conversation_id is not None:
        left = left.filter(conversation=conversation_id)
    if owner_id is not None:
        left = left.filter(conversation__owner=owner_id)
    found = list(left.values_list("pk", "conversation_id"))
    ended = sum(_interrupt(pk, conversation) for pk, conversation in found)
    metrics.answers_orphaned(ended)
    return ended


def interrupt_before_reading(conversation_id: int) -> int:
    """The same before a conversation is read, as it is if nothing can be stored."""
    try:
        return interrupt_orphans(conversation_id=conversation_id)
    except DatabaseError as exc:
        logger.warning("No answers were interrupted (%s)", type(exc).__name__)
        return 0


@transaction.atomic
def _interrupt(answer_pk: int, conversation_id: int) -> int:
    lock(conversation_id)
    # Asked again by the update, since the writer may have come back meanwhile.
    alive = Writer.objects.filter(heartbeat_at__gte=Now() - SILENT)
    ended = (
        Message.objects.filter(pk=answer_pk, status=STREAMING)
        .exclude(writer__in=alive)
        .update(
            status=Message.Status.INTERRUPTED,
            error_code="interrupted",
            writer=None,
            finished_at=Now(),
        )
    )
    if ended:
        note_interrupted(answer_pk)
        touch(conversation_id)
    return ended


def forget_dead_writers() -> int:
    """Remove the rows of processes long gone; how many there were."""
    gone = Writer.objects.filter(heartbeat_at__lt=Now() - FORGOTTEN)
    return gone.exclude(answers__status=STREAMING).delete()[0]


def lock(conversation_id: int) -> None:
    """
    Let nobody else change a conversation until the caller's transaction ends.

    Whoever changes messages takes this lock first: in another order, a deletion and
    the end of an answer would wait for each other. SQLite has one writer at a time.
    """
    if not connection.features.has_select_for_update:
        return
    _LOCKED.rows(id=conversation_id)


def touch(conversation_id: int) -> None:
    """Raise a conversation's version, in the transaction that changed it."""
    _CHANGED.run(id=conversation_id)


def _conversation() -> QuerySet[Conversation]:
    return Conversation.objects.filter(pk=given(Conversation, "id"))


_LOCKED = Select(lambda: _conversation().select_for_update().values_list("pk"))
_CHANGED = Update(_conversation, lambda: {"version": F("version") + 1})
