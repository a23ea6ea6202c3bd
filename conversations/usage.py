"""What answers cost, in tokens: noted when they end, summed up by day and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from django.conf import settings
from django.db.models import F, Sum
from django.utils import timezone

from accounts.models import User
from conversations.models import Conversation, Message, Usage
from llmbackend.chat_models import QUOTE, context_window
from llmbackend.prepared import Update, given
from llmbackend.token_counts import tokens

ENDS = ("complete", "stopped", "truncated", "failed", "interrupted")
# What a column of a message holds.
MOST_HELD = 2**31 - 1
COUNTED = (*ENDS, "prompt_tokens", "completion_tokens", "estimated_answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent on a model: of one answer, of a day, or in all."""

    answers: int = 0
    estimated_answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            answers=self.answers + other.answers,
            estimated_answers=self.estimated_answers + other.estimated_answers,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DayOfModel:
    """What a model cost on a day (UTC)."""

    day: date
    model: str
    spent: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a user or the users of a model spent: the sums of COUNTED, in its order."""

    name: str
    counts: Sequence[int]


def note(*, owner_id: int, model: str, status: str, spent: Spent) -> None:
    """
    Add to what a user spent today an answer that ends, in the caller's transaction.

    `status` is how it ends.
    """
    today = timezone.now().date()
    more = {name: getattr(spent, name) for name in Spent.__slots__}
    more |= {end: int(end == status) for end in ENDS}
    of_today = {"owner": owner_id, "day": today, "model": model, **more}
    if not _ADDED.run(**of_today):
        # Another answer may do the same just now: the row is made once, then added to.
        empty = Usage(owner_id=owner_id, day=today, model=model)
        Usage.objects.bulk_create([empty], ignore_conflicts=True)
        _ADDED.run(**of_today)


_ADDED = Update(
    lambda: Usage.objects.filter(
        **{name: given(Usage, name) for name in ("owner", "day", "model")}
    ),
    lambda: {name: F(name) + given(Usage, name) for name in (*Spent.__slots__, *ENDS)},
)


def spent_by_day(*, owner: User, since: date, until: date) -> list[DayOfModel]:
    """What a user spent from `since` to `until`, both included, the latest first."""
    rows = Usage.objects.filter(owner=owner, day__range=(since, until), answers__gt=0)
    return [
        DayOfModel(
            day=row.day,
            model=row.model,
            spent=Spent(**{name: getattr(row, name) for name in Spent.__slots__}),
        )
        for row in rows.order_by("-day", "model")
    ]


def totals_since(since: date, *, by: str) -> list[Totals]:
    """What was spent since a day, by `user` or `model`, most first, in one query."""
    name = "owner__username" if by == "user" else "model"
    sums = {each: Sum(each) for each in COUNTED}
    rows = Usage.objects.filter(day__gte=since).values(name=F(name)).annotate(**sums)
    both = F("prompt_tokens") + F("completion_tokens")
    found = rows.order_by(both.desc(), "name").values_list("name", *COUNTED)
    return [Totals(name=name, counts=counts) for name, *counts in found]


def tokens_by_day(days: int) -> list[tuple[date, int, int]]:
    """Everybody's prompt and completion tokens on each of the last days, by UTC."""
    today = timezone.now().date()
    dates = [today - timedelta(days=ago) for ago in reversed(range(days))]
    rows = Usage.objects.filter(day__gte=dates[0]).values_list("day")
    sums = {
        day: (sent, received)
        for day, sent, received in rows.annotate(
            Sum("prompt_tokens"), Sum("completion_tokens")
        )
    }
    return [(day, *sums.get(day, (0, 0))) for day in dates]


def held(count: int) -> int:
    """
    Tokens of an answer as its row holds them.

    An import may say that it has cost nearly as many as that, and then it is continued.
    """
    return min(count, MOST_HELD)


def note_interrupted(answer_pk: int) -> None:
    """
    Estimate what an answer cost whose writer is dead, in the caller's transaction.

    What it was sent is not stored: the branch above it is taken for that, up to the
    model's window.
    """
    answer = Message.objects.select_related("conversation").get(pk=answer_pk)
    spent = Spent() if answer.model == QUOTE else _estimated(answer)
    note(
        owner_id=answer.conversation.owner_id,
        model=answer.model,
        status=Message.Status.INTERRUPTED,
        spent=spent,
    )


def _estimated(answer: Message) -> Spent:
    """What an answer cost since it was begun or continued; stored with it."""
    conversation = answer.conversation
    sent = tokens(system_prompt_of(conversation)) + tokens_above(answer)
    sent = min(sent, context_window(answer.model, config=settings.CONFIG))
    received = tokens(answer.content) + tokens(answer.reasoning)
    # A continued answer was counted before, with the text it had then.
    before = answer.completion_tokens or 0
    spent = Spent(
        answers=1,
        estimated_answers=1,
        prompt_tokens=sent,
        completion_tokens=max(0, received - before),
    )
    answer.prompt_tokens = held((answer.prompt_tokens or 0) + sent)
    answer.completion_tokens = held(before + spent.completion_tokens)
    answer.tokens_estimated = True
    answer.save(
        update_fields=["prompt_tokens", "completion_tokens", "tokens_estimated"]
    )
    return spent


def system_prompt_of(conversation: Conversation) -> str:
    """What its model is told first; empty for nothing."""
    configured: str = settings.CONFIG.chat.system_prompt
    own = conversation.system_prompt
    return configured if own is None else own


def tokens_above(answer: Message) -> int:
    """About how many tokens its question and all before it have."""
    rows = Message.objects.filter(conversation=answer.conversation_id)
    texts = {
        pk: (up, said) for pk, up, said in rows.values_list("pk", "parent", "content")
    }
    total, above = 0, answer.parent_id
    while above is not None:
        above, said = texts[above]
        total += tokens(said)
    return total
