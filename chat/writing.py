"""Draining a provider into an answer; what is written here is all an answer gets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings

from chat import quoting
from chat.grounded import (
    Grounding,
    continued_messages,
    grounded_messages,
    plain_messages,
    store_sources,
)
from chat.live import LiveAnswer
from chat.relay import Deadlines, ModelRequest, Usage, relay
from conversations.models import Message
from conversations.turns import Turn
from llmbackend import metrics
from llmbackend.chat_models import QUOTE
from llmbackend.connected import Providers
from llmbackend.errors import (
    AnswerCut,
    Internal,
    Interrupted,
    LLMBackendError,
    NotFound,
)
from llmbackend.http import renamed
from llmbackend.providers import Connection

logger = logging.getLogger(__name__)
Status = Message.Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How the writing of an answer ended."""

    status: str
    finish_reason: str = ""
    usage: Usage | None = None
    error: LLMBackendError | None = None


def interrupted() -> Written:
    return Written(status=Status.INTERRUPTED, error=Interrupted())


def gone() -> Written:
    """How it ends for its readers when it was deleted meanwhile."""
    return Written(
        status=Status.INTERRUPTED, error=NotFound("This conversation has been deleted.")
    )


def cut(answer: LiveAnswer) -> Written:
    """How it ends when its writing is cancelled."""
    return Written(status=Status.STOPPED) if answer.stopping else interrupted()


async def write(
    answer: LiveAnswer,
    *,
    turn: Turn,
    grounding: Grounding | None,
    providers: Providers,
) -> Written:
    """Grow `answer` by what its provider says, to the end; only a cancel is raised."""
    try:
        if grounding is not None:
            return await _grounded(answer, turn, grounding, providers)
        if turn.model == QUOTE:
            return _all_at_once(answer, [quoting.PURPOSE])
        return await _drain(answer, turn, plain_messages(turn), providers)
    except AnswerCut as error:
        return Written(status=Status.TRUNCATED, error=error)
    except LLMBackendError as error:
        return Written(status=Status.FAILED, error=error)
    except Exception as error:
        logger.exception("Writing message %s failed", turn.message_id)
        # The database may be away for a moment, as for any other request.
        return Written(status=Status.FAILED, error=renamed(error) or Internal())


async def _grounded(
    answer: LiveAnswer, turn: Turn, grounding: Grounding, providers: Providers
) -> Written:
    if turn.continues and turn.sources:
        texts = await grounding.texts_again(turn)
        return await _drain(answer, turn, continued_messages(turn, texts), providers)
    findings = await grounding.find(turn)
    messages, passages = grounded_messages(turn, findings)
    answer.rest_on(await store_sources(grounding, turn, passages))
    if turn.model == QUOTE:
        quotes = await grounding.quotes(findings, passages)
        return _all_at_once(answer, quoting.quoted(turn.question, quotes))
    return await _drain(answer, turn, messages, providers)


def _all_at_once(answer: LiveAnswer, pieces: Iterable[str]) -> Written:
    for piece in pieces:
        answer.grow(text=piece, reasoning="")
    return Written(status=Status.COMPLETE, finish_reason="stop")


async def _drain(
    answer: LiveAnswer,
    turn: Turn,
    messages: list[dict[str, str]],
    providers: Providers,
) -> Written:
    connection = await connect(turn, providers)
    answer.sent = messages
    request = ModelRequest(
        model=turn.model,
        messages=messages,
        temperature=turn.temperature,
        top_p=turn.top_p,
        max_tokens=turn.max_tokens,
    )
    try:
        finish = await relay(
            answer,
            client=connection.client,
            provider=turn.provider,
            request=request,
            api_key=connection.api_key,
            deadlines=deadlines(),
        )
    except LLMBackendError as error:
        metrics.provider_failed(turn.provider, call="chat", code=error.code)
        raise
    return Written(
        status=Status.COMPLETE,
        finish_reason=finish.finish_reason,
        usage=finish.usage,
    )


async def connect(turn: Turn, providers: Providers) -> Connection:
    """The client and the key for a turn: the conversation's key, or the config's."""
    return await providers.connect_with(
        turn.provider,
        sealed_key=turn.sealed_key,
        owner_id=turn.owner_id,
        keys=settings.KEYS.field,
    )


def deadlines() -> Deadlines:
    chat = settings.CONFIG.chat
    return Deadlines(
        connect=chat.connect_timeout,
        first_token=chat.first_token_timeout,
        silence=chat.silence_timeout,
        total=chat.total_timeout,
    )
