"""
How answers went, hour by hour.

What is over is counted once and kept, so that a page about a day reads 24 rows, however
many answers there were; the rest is counted anew each time. Which process keeps an
hour first does not matter: all count the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from conversations.models import AnswerHour, Message

HOUR = timedelta(hours=1)
# An answer's end is stored a moment after the time that it bears, and clocks differ.
SETTLED_AFTER = timedelta(minutes=5)
# No provider is given as long; what is longer is no measure.
LONGEST_WAIT = timedelta(days=1)

Row = tuple[datetime, str, str, datetime, datetime | None]


@dataclass(slots=True)
class Tally:
    """What an hour's answers come to while they are counted."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    def add(self, row: Row) -> None:
        _, status, error_code, asked_at, first_token_at = row
        self.statuses[status] += 1
        if error_code:
            self.failures[error_code] += 1
        if first_token_at is None:
            return
        wait = first_token_at - asked_at
        # Clocks are set, and what was imported may say anything.
        if timedelta() <= wait <= LONGEST_WAIT:
            self.waits.append(wait / timedelta(milliseconds=1))

    def as_hour(self, hour: datetime) -> AnswerHour:
        return AnswerHour(
            hour=hour,
            statuses=dict(self.statuses),
            failures=dict(self.failures),
            first_token_p50_ms=percentile(self.waits, 50),
            first_token_p95_ms=percentile(self.waits, 95),
        )


def last_hours(count: int = 24) -> list[AnswerHour]:
    """The running hour and those before it, the oldest first; keeps what is over."""
    now = timezone.now()
    running = now.replace(minute=0, second=0, microsecond=0)
    hours = [running - HOUR * ago for ago in reversed(range(count))]
    kept = {row.hour: row for row in AnswerHour.objects.filter(hour__gte=hours[0])}
    missing = [hour for hour in hours if hour not in kept]
    counted = _counted(missing)
    over = now - HOUR - SETTLED_AFTER
    settled = [row for row in counted.values() if row.hour <= over]
    if settled:
        AnswerHour.objects.bulk_create(settled, ignore_conflicts=True)
    return [kept.get(hour) or counted[hour] for hour in hours]


def _counted(hours: Sequence[datetime]) -> dict[datetime, AnswerHour]:
    if not hours:
        return {}
    tallies = {hour: Tally() for hour in hours}
    for row in _ended_since(min(hours)):
        hour = row[0].replace(minute=0, second=0, microsecond=0)
        if hour in tallies:
            tallies[hour].add(row)
    return {hour: tally.as_hour(hour) for hour, tally in tallies.items()}


def _ended_since(moment: datetime) -> Iterable[Row]:
    ended = Message.objects.filter(finished_at__gte=moment, role=Message.Role.ASSISTANT)
    fields = ("finished_at", "status", "error_code", "created_at", "first_token_at")
    return ended.values_list(*fields).iterator()


def percentile(values: Sequence[float], share: int) -> int | None:
    """
    The value that `share` per cent of them do not exceed; None of none.

    >>> percentile([30, 10, 20], 50), percentile([30, 10, 20], 95), percentile([], 50)
    (20, 30, None)
    """
    if not values:
        return None
    rank = math.ceil(len(values) * share / 100)
    return round(sorted(values)[rank - 1])
