"""
Counting what happens within a window of time, exactly, for all workers together.

The window begins with the first count, or anew with each where that is asked for, and
ends for all at once. The counts are in Redis where it is configured and answers, else
in SQL; when Redis goes away, they begin anew there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection

from accounts.models import Tally
from llmbackend import cache

# One statement, so that nobody waits for another's transaction, and no count is lost.
_COUNT = """
INSERT INTO accounts_tally (key, count, ends_at) VALUES (%(key)s, 1, %(ends_at)s)
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN accounts_tally.ends_at <= %(now)s
        THEN 1 ELSE accounts_tally.count + 1 END,
    ends_at = CASE WHEN %(anew)s = 1 OR accounts_tally.ends_at <= %(now)s
        THEN excluded.ends_at ELSE accounts_tally.ends_at END
RETURNING count, ends_at
"""
# The same, unless so many were counted.
_COUNT_UP_TO = _COUNT.replace(
    "RETURNING",
    "WHERE accounts_tally.ends_at <= %(now)s\n"
    "    OR accounts_tally.count < %(most)s\nRETURNING",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How often it happened, and the seconds until that is forgotten."""

    count: int
    seconds_left: int


def count(key: str, *, seconds: int, anew: bool = False) -> Counted:
    """
    Count one more under `key`, for a window of `seconds` if none is open.

    With `anew` the one that is open ends `seconds` from now, too.
    """
    found = cache.count(key, seconds=seconds, anew=anew)
    return _counted(found or _count_in_sql(key, seconds, anew=anew))


def count_up_to(key: str, *, most: int, seconds: int) -> int:
    """
    Count one more under `key` unless `most` are; the seconds until it can be, or 0.

    In SQL whatever Redis does, so that it is exact, and undone with the caller's
    transaction.
    """
    now = int(time.time())
    values: dict[str, str | int] = {
        "key": key,
        "now": now,
        "ends_at": now + seconds,
        "anew": 0,
        "most": most,
    }
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_UP_TO, values)
        if cursor.fetchone():
            return 0
    found = read_in_sql([key]).get(key)
    return _counted(found).seconds_left if found else 1


def read(keys: Sequence[str]) -> dict[str, Counted]:
    """What was counted under each of `keys`; those without a count are left out."""
    found = cache.counts(keys)
    if found is None:
        found = read_in_sql(keys)
    return {key: _counted(pair) for key, pair in found.items()}


def _counted(found: tuple[int, int]) -> Counted:
    number, left = found
    # A window that is just ending is still one.
    return Counted(count=number, seconds_left=max(1, left))


def _count_in_sql(key: str, seconds: int, *, anew: bool) -> tuple[int, int]:
    now = int(time.time())
    values: dict[str, str | int] = {
        "key": key,
        "now": now,
        "ends_at": now + seconds,
        "anew": int(anew),
    }
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, values)
        number, ends_at = cursor.fetchone()
    if number == 1:
        forget_ended()
    return number, ends_at - now


def forget_ended() -> int:
    """Remove the windows that are over; how many there were."""
    return Tally.objects.filter(ends_at__lte=int(time.time())).delete()[0]


def read_in_sql(keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    now = int(time.time())
    rows = Tally.objects.filter(key__in=keys, ends_at__gt=now)
    return {row.key: (row.count, row.ends_at - now) for row in rows}
