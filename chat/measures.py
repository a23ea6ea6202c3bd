"""What the end of an answer adds to the metrics."""

from __future__ import annotations

from django.conf import settings

from chat.live import LiveAnswer
from conversations.turns import Turn
from llmbackend import metrics
from llmbackend.chat_models import configured_name


def note_end(answer: LiveAnswer, turn: Turn) -> None:
    """Count an answer whose end is stored, and how long its first piece took."""
    if answer.ending is None or metrics.instruments() is None:
        return
    first_token = None
    # What is continued had its first piece long ago.
    if answer.first_token_at is not None and turn.first_token_at is None:
        first_token = (answer.first_token_at - answer.began_at).total_seconds()
    metrics.answer_ended(
        provider=turn.provider,
        model=configured_name(turn.model, config=settings.CONFIG),
        end=answer.ending.status,
        code=answer.ending.code,
        first_token=first_token,
    )
