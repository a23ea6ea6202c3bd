"""What an answer asks of the database, one hop to a thread each, and is told."""

from __future__ import annotations

import uuid

from accounts.grants import CHAT
from accounts.idempotency import made_before
from accounts.tokens import Claims, user_for
from chat.asks import Ask, Watch
from chat.event_ids import Position
from chat.events import Opening
from chat.grounded import base_for, room_for
from chat.live import LiveAnswer
from chat.writing import Written
from conversations.closing import Outcome
from conversations.models import Conversation, Message
from conversations.stored import StoredAnswer, stored_answer
from conversations.turns import Opened, Turn, open_turn, request_stop, turn_of
from llmbackend.errors import NotFound
from rag.indexes import Base


def open_and_find_base(
    *, claims: Claims, ask: Ask, writer: uuid.UUID
) -> tuple[Opened | str, Base | None]:
    """The one hop before an answer: who asks, of which base, and the two rows."""
    user = user_for(claims, scope=CHAT)
    # Looked up first: once the rows are there, nothing may keep them from an answer.
    try:
        base = base_for(user, ask)
    except NotFound:
        # An answer that is there already needs it no more.
        made = made_before(user, ask.key)
        if not made:
            raise
        return made, None
    opened = open_turn(
        user=user,
        conversation_id=ask.conversation_id,
        asked=ask.asked,
        writer=writer,
        key=ask.key,
        knowledge_base_id=base.id if base else None,
        passages=room_for(base, top_k=ask.top_k),
    )
    return opened, base


def with_turn(
    found: tuple[Opened | str, Base | None],
) -> tuple[Turn | str, Base | None]:
    """The same after the commit."""
    opened, base = found
    return opened if isinstance(opened, str) else turn_of(opened), base


def find_answer(
    *, claims: Claims, watch: Watch, position: Position | None
) -> StoredAnswer | None:
    """The one hop before a stream is read; raises NotFound for an unknown message."""
    found = stored_answer(
        user=user_for(claims, scope=CHAT),
        conversation_id=watch.conversation_id,
        message_id=position.message_id if position else None,
    )
    if found is None and position is not None:
        raise NotFound
    return found


def find_and_mark(
    *, claims: Claims, conversation_id: int, message_id: int | None
) -> tuple[int, int] | None:
    """The one hop of a stop."""
    return request_stop(
        user=user_for(claims, scope=CHAT),
        conversation_id=conversation_id,
        message_id=message_id,
    )


def find_conversation(*, claims: Claims, conversation_id: int) -> None:
    """Raise Unauthorized, Forbidden, or NotFound for what is not theirs."""
    user = user_for(claims, scope=CHAT)
    Conversation.objects.owned_by(user).fetch(conversation_id)


def is_gone(answer_pk: int) -> bool:
    """Whether an answer was deleted while it was being written."""
    return not Message.objects.filter(pk=answer_pk).exists()


def answer_of(turn: Turn) -> LiveAnswer:
    """The answer of a turn that begins, or goes on."""
    opening = Opening(
        conversation_id=turn.conversation_id,
        question_id=turn.question_id,
        message_id=turn.message_id,
        model=turn.model,
        provider=turn.provider,
        sources=turn.sources or None,
    )
    return LiveAnswer(
        pk=turn.answer_pk,
        opening=opening,
        text=turn.text,
        reasoning=turn.reasoning,
        first_token_at=turn.first_token_at,
    )


def outcome_of(answer: LiveAnswer, written: Written) -> Outcome:
    """What is to be stored at the end of an answer."""
    usage = written.usage
    return Outcome(
        status=written.status,
        finish_reason=written.finish_reason,
        error_code=written.error.code if written.error else "",
        text=answer.text.whole(),
        reasoning=answer.reasoning.whole(),
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        tokens_estimated=usage.estimated if usage else False,
        first_token_at=answer.first_token_at,
    )
