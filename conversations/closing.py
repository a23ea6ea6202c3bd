"""How an answer ends: its row, what it cost, its conversation's version."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from conversations import usage
from conversations.models import Message
from conversations.turns import Turn
from conversations.usage import Spent
from conversations.writers import held_by, lock, touch
from llmbackend.prepared import Update, given


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an answer ended; the tokens are all it cost, None where it cost none."""

    status: str
    finish_reason: str = ""
    error_code: str = ""
    text: str
    reasoning: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False
    first_token_at: datetime | None = None


@transaction.atomic
def close_turn(*, turn: Turn, writer: uuid.UUID, outcome: Outcome) -> bool:
    """
    Store an answer's end; False when the answer is no longer `writer`'s.

    That is so after a take-over and after the conversation's deletion. An end that was
    stored before is True: a connection may break between a commit and the word of it.
    """
    lock(turn.conversation_id)
    ended = _ENDED.run(
        id=turn.answer_pk,
        held_by=writer,
        content=outcome.text,
        reasoning=outcome.reasoning,
        status=outcome.status,
        finish_reason=outcome.finish_reason[:64],
        error_code=outcome.error_code,
        prompt_tokens=_held(outcome.prompt_tokens),
        completion_tokens=_held(outcome.completion_tokens),
        tokens_estimated=outcome.tokens_estimated,
        first_token_at=outcome.first_token_at,
        finished_at=timezone.now(),
    )
    if not ended:
        same = Message.objects.filter(pk=turn.answer_pk, status=outcome.status)
        return same.filter(content=outcome.text).exists()
    _note_usage(turn, outcome)
    touch(turn.conversation_id)
    return True


_END = (
    *("content", "reasoning", "status", "finish_reason", "error_code"),
    *("prompt_tokens", "completion_tokens", "tokens_estimated"),
    *("first_token_at", "finished_at"),
)
_ENDED = Update(
    lambda: held_by(given(Message, "writer", "held_by")).filter(
        pk=given(Message, "id")
    ),
    lambda: {
        **{name: given(Message, name) for name in _END},
        "writer": None,
    },
)


def _held(tokens: int | None) -> int | None:
    return None if tokens is None else usage.held(tokens)


def _note_usage(turn: Turn, outcome: Outcome) -> None:
    spent = Spent()
    if outcome.prompt_tokens is not None and outcome.completion_tokens is not None:
        prompt = outcome.prompt_tokens - turn.prompt_tokens
        completion = outcome.completion_tokens - turn.completion_tokens
        # None, where it was to be continued and the provider was not reached.
        cost = prompt > 0 or completion > 0
        spent = Spent(
            answers=int(cost),
            estimated_answers=int(cost and outcome.tokens_estimated),
            prompt_tokens=prompt,
            completion_tokens=completion,
        )
    usage.note(
        owner_id=turn.owner_id, model=turn.model, status=outcome.status, spent=spent
    )
