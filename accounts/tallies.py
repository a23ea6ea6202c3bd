"""
Counting what happens within a window of time, exactly, for all workers together.

The window begins with the first count and ends for all at once. The counts are in
Redis where it is configured and answers, else in SQL; when Redis goes away, they begin
anew there.
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
    ends_at = CASE WHEN accounts_tally.ends_at <= %(now)s
        THEN excluded.ends_at ELSE accounts_tally.ends_at END
RETURNING count, ends_at
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How often it happened, and the seconds until that is forgotten."""

    count: int
    seconds_left: int


def count(key: str, *, seconds: int) -> Counted:
    """Count one more under `key`, for a window of `seconds` if none is open."""
    found = cache.count(key, seconds=seconds)
    return _counted(found or _count_in_sql(key, seconds))


def read(keys: Sequence[str]) -> dict[str, Counted]:
    """What was counted under each of `keys`; those without a count are left out."""
    found = cache.counts(keys)
    if found is None:
        found = _read_in_sql(keys)
    return {key: _counted(pair) for key, pair in found.items()}


def _counted(found: tuple[int, int]) -> Counted:
    number, left = found
    # A window that is just ending is still one.
    return Counted(count=number, seconds_left=max(1, left))


def _count_in_sql(key: str, seconds: int) -> tuple[int, int]:
    now = int(time.time())
    values: dict[str, str | int] = {"key": key, "now": now, "ends_at": now + seconds}
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, values)
        number, ends_at = cursor.fetchone()
    if number == 1:
        Tally.objects.filter(ends_at__lte=now).delete()
    return number, ends_at - now


def _read_in_sql(keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    now = int(time.time())
    rows = Tally.objects.filter(key__in=keys, ends_at__gt=now)
    return {row.key: (row.count, row.ends_at - now) for row in rows}
