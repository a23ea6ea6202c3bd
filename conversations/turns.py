"""A turn: a question and the answer that grows under it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max
from django.utils import timezone

from accounts.models import User
from conversations.history import Said, closed_path
from conversations.models import Conversation, Message
from conversations.writers import beat, held_by, interrupt_orphans, lock, touch
from llmbackend.chat_models import provider_for
from llmbackend.errors import AnswerInProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What it takes to answer, read while the rows were made; no ORM object."""

    conversation_id: int
    owner_id: int
    question_id: int
    message_id: int
    answer_pk: int
    provider: str
    model: str
    system_prompt: str | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    sealed_key: str
    question: str
    earlier: tuple[Said, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an answer ended."""

    status: str
    finish_reason: str = ""
    error_code: str = ""
    text: str
    reasoning: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False
    first_token_at: datetime | None = None


def open_turn(
    *, user: User, conversation_id: int, question: str, writer: uuid.UUID
) -> Turn:
    """
    Commit a question and the empty answer `writer` will fill.

    Raises NotFound, UnknownModel and, while another answer is being written,
    AnswerInProgress.
    """
    try:
        return _open_turn(user, conversation_id, question, writer)
    except AnswerInProgress:
        if not interrupt_orphans(conversation_id=conversation_id):
            raise
        return _open_turn(user, conversation_id, question, writer)


def _open_turn(
    user: User, conversation_id: int, question: str, writer: uuid.UUID
) -> Turn:
    with transaction.atomic():
        owned = Conversation.objects.owned_by(user).select_for_update()
        conversation = owned.fetch(conversation_id)
        provider = provider_for(conversation.model, config=settings.CONFIG).name
        asked, answer = _add_rows(conversation, question, provider, writer)
    # Redis is asked after the commit: a slow one must not hold the write lock.
    earlier = closed_path(conversation, leaf_id=conversation.active_leaf_id)
    return Turn(
        conversation_id=conversation.pk,
        owner_id=user.pk,
        question_id=asked.number,
        message_id=answer.number,
        answer_pk=answer.pk,
        provider=provider,
        model=conversation.model,
        system_prompt=conversation.system_prompt,
        temperature=conversation.temperature,
        top_p=conversation.top_p,
        max_tokens=conversation.max_tokens,
        sealed_key=conversation.api_key,
        question=question,
        earlier=tuple(earlier),
    )


def _add_rows(
    conversation: Conversation, question: str, provider: str, writer: uuid.UUID
) -> tuple[Message, Message]:
    beat(writer)
    now = timezone.now()
    messages = Message.objects.filter(conversation=conversation)
    if messages.filter(status=Message.Status.STREAMING).exists():
        raise AnswerInProgress
    last = messages.aggregate(last=Max("number"))["last"] or 0
    asked = Message.objects.create(
        conversation=conversation,
        number=last + 1,
        parent_id=conversation.active_leaf_id,
        role=Message.Role.USER,
        content=question,
        created_at=now,
        finished_at=now,
    )
    answer = Message.objects.create(
        conversation=conversation,
        number=last + 2,
        parent=asked,
        role=Message.Role.ASSISTANT,
        status=Message.Status.STREAMING,
        model=conversation.model,
        provider=provider,
        writer_id=writer,
        created_at=now,
    )
    Conversation.objects.filter(pk=conversation.pk).update(
        active_leaf=answer, updated_at=now, version=F("version") + 1
    )
    return asked, answer


def note_sources(*, turn: Turn, writer: uuid.UUID, sources: list[Any]) -> None:
    """Store what an answer rests on, before it begins."""
    held_by(writer).filter(pk=turn.answer_pk).update(sources=sources)


@transaction.atomic
def close_turn(*, turn: Turn, writer: uuid.UUID, outcome: Outcome) -> bool:
    """
    Store an answer's end; False when the answer is no longer `writer`'s.

    That is so after a take-over and after the conversation's deletion.
    """
    fields: dict[str, Any] = {
        "content": outcome.text,
        "reasoning": outcome.reasoning,
        "status": outcome.status,
        "finish_reason": outcome.finish_reason[:64],
        "error_code": outcome.error_code,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "tokens_estimated": outcome.tokens_estimated,
        "first_token_at": outcome.first_token_at,
        "finished_at": timezone.now(),
        "writer": None,
    }
    lock(turn.conversation_id)
    if not held_by(writer).filter(pk=turn.answer_pk).update(**fields):
        return False
    touch(turn.conversation_id)
    return True
