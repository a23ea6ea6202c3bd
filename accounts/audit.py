"""
Who did what to what, from where: kept where nobody can change it.

record() is called by the deed, in its transaction. An entry holds ids and our own
words, never what somebody wrote, a name or a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from django.db.models import Model

from accounts import tallies
from accounts.models import AuditEntry, User

Action = AuditEntry.Action

# Strangers may fail as often as they like, and get no more of the disk than this.
FAILURES_WINDOW = 60 * 60
FAILURES_OF_AN_ACCOUNT = 60
FAILURES_OF_NO_ACCOUNT = 1000
AT_ONCE = 500


def record(
    action: Action, *, by: int | None, on: Model | None = None, detail: str = ""
) -> None:
    """
    Note that the user of id `by` did this to `on`; None is nobody, or a command.

    A deletion is noted before it, while `on` still has its id.
    """
    AuditEntry.of(action, by=by, on=on, detail=detail).save()


def record_each(
    action: Action, *, by: int | None, on: Iterable[Model], detail: str = ""
) -> None:
    """The same of many."""
    entries = (AuditEntry.of(action, by=by, on=each, detail=detail) for each in on)
    AuditEntry.objects.bulk_create(entries, batch_size=AT_ONCE)


def record_failure(*, username: str, by: int | None = None) -> None:
    """
    Note that a password was wrong, some times an hour.

    The name that was typed is not kept: it may be a password. The account is, if there
    is one of that name.
    """
    user = User.objects.named(username)
    most = FAILURES_OF_AN_ACCOUNT if user else FAILURES_OF_NO_ACCOUNT
    key = f"audited-failures:{user.pk if user else '-'}"
    count = tallies.count(key, seconds=FAILURES_WINDOW).count
    if count > most:
        return
    detail = "no more are noted within the hour" if count == most else ""
    record(Action.LOG_IN_FAILED, by=by, on=user, detail=detail)


def forget_before(moment: datetime) -> Iterator[int]:
    """Remove entries older than `moment`, some at a time; how many, each time."""
    while True:
        old = AuditEntry.objects.filter(at__lt=moment).order_by("pk")
        ids = list(old.values_list("pk", flat=True)[:AT_ONCE])
        if not ids:
            return
        yield AuditEntry.objects.filter(pk__in=ids).forget()
