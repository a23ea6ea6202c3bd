"""What a user may use: the configured limits, with those of the account's own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime

from django.conf import settings
from django.db import connection

from accounts.models import User
from llmbackend.config import Limits

NAMES = tuple(each.name for each in fields(Limits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """
    What is left of a limit.

    `ends_at` is when all of it is there again; None: when something ends or goes.
    """

    limit: str
    allowed: int
    left: float
    ends_at: datetime | None = None


def limits_of(user: User) -> Limits:
    """The limits of a user; 0 is none. No query."""
    configured: Limits = settings.CONFIG.limits
    own = {name: getattr(user, f"max_{name}") for name in NAMES}
    given = {name: most for name, most in own.items() if most is not None}
    return replace(configured, **given) if given else configured


def one_at_a_time(user: User) -> None:
    """
    Let nobody else count what is a user's until the caller's transaction ends.

    So that of two at once the second counts the first. SQLite has one writer at a time.
    """
    if not connection.features.has_select_for_update:
        return
    # Rows that refer to the user may be made meanwhile, also by who waits here.
    row = User.objects.select_for_update(no_key=True).filter(pk=user.pk)
    row.values_list("pk").first()
