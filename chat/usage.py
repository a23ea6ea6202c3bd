"""What an answer cost, also where its provider does not say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from django.db import InterfaceError, OperationalError

from chat.completion import Usage
from chat.live import LiveAnswer
from chat.writing import Written
from conversations.allowances import left_of
from conversations.models import Message
from conversations.turns import Turn
from llmbackend.threads import DatabaseThreads
from llmbackend.token_counts import tokens

FAILED = Message.Status.FAILED
AT_ONCE = 10_000


async def counted(written: Written, *, answer: LiveAnswer, turn: Turn) -> Written:
    """`written` with all that the answer cost, before it was continued, too."""
    now = written.usage
    if now is None and answer.sent is not None and not _was_refused(written, answer):
        received = answer.since(answer.start)
        text = received.text + received.reasoning if received else ""
        now = await estimated(answer.sent, text)
    before = Usage(turn.prompt_tokens, turn.completion_tokens, turn.tokens_estimated)
    if now is None:
        has_cost = before.prompt_tokens or before.completion_tokens
        return replace(written, usage=before) if has_cost else written
    total = Usage(
        prompt_tokens=before.prompt_tokens + now.prompt_tokens,
        completion_tokens=before.completion_tokens + now.completion_tokens,
        estimated=before.estimated or now.estimated,
    )
    return replace(written, usage=total)


async def with_left(
    written: Written, *, turn: Turn, threads: DatabaseThreads
) -> Written:
    """`written` with the tokens that its owner can still spend, if they are limited."""
    if written.usage is None or not turn.limits.on_tokens:
        return written
    try:
        left = await threads.run(left_of, turn.owner_id, turn.limits)
    except (OperationalError, InterfaceError):
        return written  # Its end is stored, and need not wait for this.
    return replace(written, usage=replace(written.usage, left=left))


def _was_refused(written: Written, answer: LiveAnswer) -> bool:
    """Whether it failed before the provider wrote anything, which costs nothing."""
    return written.status == FAILED and answer.cursor == answer.start


async def estimated(sent: Sequence[Mapping[str, str]], received: str) -> Usage:
    """`estimate`; on another thread where it takes more than a millisecond."""
    size = sum(len(message["content"]) for message in sent) + len(received)
    if size < AT_ONCE:
        return estimate(sent, received)
    return await asyncio.to_thread(estimate, sent, received)


def estimate(sent: Sequence[Mapping[str, str]], received: str) -> Usage:
    """About what it costs to send these messages and to receive this text."""
    prompt = sum(tokens(message["content"]) for message in sent)
    return Usage(prompt, tokens(received), estimated=True)
