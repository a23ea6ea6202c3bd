"""
What a user may still ask: their limits, less what was spent and what is set aside.

What an answer may cost is kept with its row while it is written, and counts because
the row says `streaming`. So whatever ends the row, its deletion too, gives it back, and
what was spent is noted by the same transaction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.db.models import (
    Aggregate,
    Count,
    F,
    Func,
    IntegerField,
    Q,
    QuerySet,
    Subquery,
    Sum,
)
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts import tallies
from accounts.limits import Allowance, limits_of, one_at_a_time
from accounts.models import User
from conversations.asked import Asked, Edit, Regenerate
from conversations.models import Conversation, Message, Usage
from conversations.usage import system_prompt_of
from llmbackend.chat_models import QUOTE, TOKENS_KEPT_FOR_ANSWER, prompt_budget
from llmbackend.config import Limits
from llmbackend.errors import LimitReached, NotFound, QuotaExceeded
from llmbackend.prepared import Select, given
from llmbackend.token_counts import tokens

MINUTE = 60
# Seconds after which one of a user's other answers may have ended.
SOON = 2
# After every message there can be.
LATEST = 2**31 - 1
STREAMING = Message.Status.STREAMING


class Bytes(Func):
    """The length of a text in UTF-8."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # Its own octet_length() came late.
        template = "LENGTH(CAST(%(expressions)s AS BLOB))"
        return self.as_sql(compiler, connection, template=template, **context)


@dataclass(frozen=True, slots=True)
class Taken:
    """
    How much of a user's limits is taken.

    `answers` are being written and have `set_aside` tokens; `day` and `month` are the
    tokens that were spent in these (UTC).
    """

    answers: int
    set_aside: int
    day: int
    month: int

    def left(self, limits: Limits) -> dict[str, int]:
        """The tokens that can still be spent, by the limits there are."""
        spent = {"tokens_per_day": self.day, "tokens_per_month": self.month}
        return {
            name: max(0, most - spent[name] - self.set_aside)
            for name in spent
            if (most := getattr(limits, name))
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A limit of tokens and what is spent of it until `ends_at`."""

    limit: str
    most: int
    spent: int
    called: str
    ends_at: datetime


def admit(
    user: User, *, conversation: Conversation, asked: Asked, passages: int
) -> int:
    """
    Count one more answer of a user; the tokens that are to be set aside for it.

    `passages` is how many tokens a knowledge base may add to the question. To be called
    in the transaction that opens the answer, so that one that is not opened does not
    count. Costs nothing where there are no limits. Raises LimitReached, and
    QuotaExceeded for a question that is larger than a limit.
    """
    limits = limits_of(user)
    cost = 0
    if limits.concurrent_answers or limits.on_tokens:
        one_at_a_time(user)
        taken, said = _taken_and_said(
            user.pk, conversation_id=conversation.pk, before=first_not_sent(asked)
        )
        check_concurrency(limits, taken)
        cost = upper_estimate(conversation, asked, said=said, passages=passages)
        check_tokens(limits, taken, cost)
    if limits.messages_per_minute:
        count_message(user, most=limits.messages_per_minute)
    return cost


def first_not_sent(asked: Asked) -> int | None:
    """Of a question that is asked anew what follows it is not sent; None: all is."""
    return asked.message_id if isinstance(asked, Edit | Regenerate) else None


def count_message(user: User, *, most: int) -> None:
    """Count one more of this minute; raises LimitReached."""
    wait = tallies.count_up_to(minute_of(user), most=most, seconds=MINUTE)
    if wait:
        reset = timezone.now() + timedelta(seconds=wait)
        raise refused("messages_per_minute", most, reset)


def minute_of(user: User) -> str:
    """Under which key a user's messages are counted."""
    return f"messages:{user.pk}"


def check_concurrency(limits: Limits, taken: Taken) -> None:
    """Raise LimitReached while as many answers as may be are being written."""
    most = limits.concurrent_answers
    if 0 < most <= taken.answers:
        raise refused("concurrent_answers", most, None)


def check_tokens(limits: Limits, taken: Taken, cost: int) -> None:
    """Raise LimitReached, or QuotaExceeded, unless `cost` fits into every limit."""
    waits = []
    for period in periods(limits, taken):
        if cost > period.most:
            raise QuotaExceeded(
                f"The question may take {cost} tokens; you may spend {period.most} "
                f"a {period.called}.",
                facts={"limit": period.limit, "allowed": period.most},
            )
        if cost and period.spent + cost > period.most:
            waits.append(refused(period.limit, period.most, period.ends_at))
        elif cost and period.spent + taken.set_aside + cost > period.most:
            # What is set aside for other answers is more than they will take.
            waits.append(refused(period.limit, period.most, None))
    if waits:
        raise max(waits, key=lambda error: error.retry_after or 0)


def periods(limits: Limits, taken: Taken) -> Iterator[Period]:
    """The limits of tokens there are, the longest first."""
    today = timezone.now().date()
    if limits.tokens_per_month:
        yield Period(
            limit="tokens_per_month",
            most=limits.tokens_per_month,
            spent=taken.month,
            called="month",
            ends_at=midnight(
                (today.replace(day=1) + timedelta(days=31)).replace(day=1)
            ),
        )
    if limits.tokens_per_day:
        yield Period(
            limit="tokens_per_day",
            most=limits.tokens_per_day,
            spent=taken.day,
            called="day",
            ends_at=midnight(today + timedelta(days=1)),
        )


def midnight(day: date) -> datetime:
    """When `day` begins (UTC)."""
    return datetime.combine(day, time(), UTC)


SENTENCES = {
    "messages_per_minute": (
        "Your limit of messages a minute ({}) is reached; try again shortly."
    ),
    "concurrent_answers": (
        "Your limit of answers at once ({}) is reached; wait for the end of one, or "
        "stop one."
    ),
    "tokens_per_day": (
        "Your limit of tokens a day ({}) leaves too few for this; try again later."
    ),
    "tokens_per_month": (
        "Your limit of tokens a month ({}) leaves too few for this; try again later."
    ),
}


def refused(limit: str, allowed: int, reset: datetime | None) -> LimitReached:
    """The error of a limit that is free again at `reset`; None: at an answer's end."""
    wait = SOON
    if reset is not None:
        wait = max(1, math.ceil((reset - timezone.now()).total_seconds()))
    return LimitReached(
        SENTENCES[limit].format(allowed),
        retry_after=wait,
        facts={
            "limit": limit,
            "allowed": allowed,
            "retry_after": wait,
            "reset_time": None if reset is None else math.ceil(reset.timestamp()),
        },
    )


def upper_estimate(
    conversation: Conversation, asked: Asked, *, said: int, passages: int
) -> int:
    """
    The tokens an answer takes at most, unless it grows longer than answers usually do.

    `said` is how many bytes the messages have that the model may be sent.
    """
    if conversation.model == QUOTE:
        return 0
    kept = conversation.max_tokens or TOKENS_KEPT_FOR_ANSWER
    always = tokens(system_prompt_of(conversation)) + tokens(getattr(asked, "text", ""))
    budget = prompt_budget(
        conversation.model,
        max_tokens=conversation.max_tokens,
        config=settings.CONFIG,
    )
    # Of whatever script, a text has about 0.35 `tokens` to the byte at most.
    earlier = min(said * 35 // 100 + passages, max(0, budget - always))
    return always + earlier + kept


def allowances_of(user: User) -> Iterator[Allowance]:
    """What is left of a user's limits, as far as there are any."""
    limits = limits_of(user)
    if limits.messages_per_minute:
        key = minute_of(user)
        counted = tallies.read_in_sql([key]).get(key)
        count, seconds = counted or (0, 0)
        yield Allowance(
            limit="messages_per_minute",
            allowed=limits.messages_per_minute,
            left=max(0, limits.messages_per_minute - count),
            ends_at=timezone.now() + timedelta(seconds=seconds) if counted else None,
        )
    if not limits.concurrent_answers and not limits.on_tokens:
        return
    taken = taken_by(user.pk)
    if limits.concurrent_answers:
        yield Allowance(
            limit="concurrent_answers",
            allowed=limits.concurrent_answers,
            left=max(0, limits.concurrent_answers - taken.answers),
        )
    left = taken.left(limits)
    for period in periods(limits, taken):
        yield Allowance(
            limit=period.limit,
            allowed=period.most,
            left=left[period.limit],
            ends_at=period.ends_at,
        )


def taken_by(owner_id: int) -> Taken:
    """What of a user's limits is taken now, in one query."""
    return _taken_and_said(owner_id)[0]


def left_of(owner_id: int, limits: Limits) -> dict[str, int]:
    """The tokens that a user can still spend; no query where there is no limit."""
    return taken_by(owner_id).left(limits) if limits.on_tokens else {}


def _taken_and_said(
    owner_id: int, *, conversation_id: int = 0, before: int | None = None
) -> tuple[Taken, int]:
    """The same, and how many bytes a conversation has before a message."""
    today = timezone.now().date()
    row = _TAKEN.row(
        owner=owner_id,
        today=today,
        first=today.replace(day=1),
        conversation=conversation_id,
        before=LATEST if before is None else before,
    )
    if row is None:
        raise NotFound  # The account has just been deleted.
    *taken, said = row
    return Taken(*taken), said


def _totals() -> QuerySet[User, tuple[Any, ...]]:
    written = Message.objects.filter(
        status=STREAMING, conversation__owner=given(Conversation, "owner")
    ).values("conversation__owner")
    today = given(Usage, "day", "today")
    spent = Usage.objects.filter(
        owner=given(Usage, "owner"),
        day__gte=given(Usage, "day", "first"),
        day__lte=today,
    ).values("owner")
    said = Message.objects.filter(
        conversation=given(Message, "conversation"),
        number__lt=given(Message, "number", "before"),
    ).values("conversation")
    both = F("prompt_tokens") + F("completion_tokens")
    return User.objects.filter(pk=given(User, "id", "owner")).values_list(
        _one(written, Count("pk")),
        _one(written, Sum("set_aside")),
        _one(spent, Sum(both, filter=Q(day=today))),
        _one(spent, Sum(both)),
        _one(said, Sum(Bytes("content"))),
    )


def _one(rows: QuerySet[Any, Any], total: Aggregate) -> Coalesce:
    """A total over rows that are grouped as one; 0 where there are none."""
    return Coalesce(Subquery(rows.order_by().annotate(one=total).values("one")), 0)


_TAKEN = Select(_totals)
