"""Answers as the database has them, for those who read along from another process."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import F, QuerySet
from django.db.models.functions import Substr

from accounts.limits import limits_of
from accounts.models import User
from conversations.allowances import left_of
from conversations.models import Conversation, Message
from conversations.writers import interrupt_orphans

STREAMING = Message.Status.STREAMING


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """
    An answer's row; `text` and `reasoning` may be what follows an offset only.

    `left` are the tokens that its owner can still spend, by limit, once it has ended.
    """

    pk: int
    conversation_id: int
    question_id: int
    message_id: int
    model: str
    provider: str
    status: str
    finish_reason: str
    error_code: str
    sources: list[Any]
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens_estimated: bool
    writer_id: uuid.UUID | None
    text: str
    reasoning: str
    owner_id: int
    left: Mapping[str, int]

    @property
    def is_open(self) -> bool:
        """Whether it is still being written, as far as the database knows."""
        return self.status == STREAMING


def stored_answer(
    *, user: User, conversation_id: int, message_id: int | None
) -> StoredAnswer | None:
    """
    An answer of an owned conversation; without `message_id` the one being written.

    None when there is none such. Raises NotFound for the conversation.
    """
    Conversation.objects.owned_by(user).fetch(conversation_id)
    answers = Message.objects.filter(
        conversation=conversation_id, role=Message.Role.ASSISTANT
    )
    if message_id is None:
        answers = answers.filter(status=STREAMING)
    else:
        answers = answers.filter(number=message_id)
    found = _first(answers, text=0, reasoning=0)
    if found and found.is_open and interrupt_orphans(conversation_id=conversation_id):
        return _first(Message.objects.filter(pk=found.pk), text=0, reasoning=0)
    return found


def stored_since(*, answer_pk: int, text: int, reasoning: int) -> StoredAnswer | None:
    """An answer with what follows these offsets, in code points; None: it has gone."""
    answers = Message.objects.filter(pk=answer_pk)
    return _first(answers, text=text, reasoning=reasoning)


def _first(
    answers: QuerySet[Message], *, text: int, reasoning: int
) -> StoredAnswer | None:
    row = answers.values_list(
        "pk",
        "conversation_id",
        "parent__number",
        "number",
        "model",
        "provider",
        "status",
        "finish_reason",
        "error_code",
        "sources",
        "prompt_tokens",
        "completion_tokens",
        "tokens_estimated",
        "writer_id",
        Substr("content", text + 1) if text else F("content"),
        Substr("reasoning", reasoning + 1) if reasoning else F("reasoning"),
        "conversation__owner",
    ).first()
    if row is None:
        return None
    fields = zip(StoredAnswer.__slots__, (*row, {}), strict=True)
    found = StoredAnswer(**dict(fields))
    if found.is_open or found.prompt_tokens is None:
        return found
    owner = User.objects.filter(pk=found.owner_id).first()
    return replace(found, left=left_of(owner.pk, limits_of(owner)) if owner else {})
