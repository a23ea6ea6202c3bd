"""Accounts change and go; they begin with a registration."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import make_password
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import F, QuerySet

from accounts import audit
from accounts.audit import Action
from accounts.models import User
from llmbackend import cache
from llmbackend.errors import Unauthorized

PATIENCE = 10.0
BETWEEN_ATTEMPTS = 0.1


def change_password(user: User, *, new: str) -> User:
    """
    Replace the password, which ends all tokens; the user as stored thereby.

    Raises Unauthorized for an account that has just gone.
    """
    # Hashed before the row is touched: it takes a while.
    hashed = make_password(new)
    with transaction.atomic():
        changed = _changed(user, password=hashed, token_version=F("token_version") + 1)
        audit.record(Action.PASSWORD_SET, by=user.pk, on=user)
    return changed


def change_profile(user: User, **fields: str) -> User:
    """
    Store what the user says of themselves; the user as stored thereby.

    Raises Unauthorized for an account that has just gone.
    """
    return _changed(user, **fields)


@transaction.atomic
def _changed(user: User, **fields: Any) -> User:
    mine = User.objects.filter(pk=user.pk)
    if fields:
        mine.update(**fields)
    changed = mine.first()
    if changed is None:
        raise Unauthorized
    return changed


@transaction.atomic
def deactivate(users: QuerySet[User], *, by: int | None) -> int:
    """Switch accounts off, which ends their tokens; how many were on."""
    active = users.filter(is_active=True)
    audit.record_each(Action.ROLE_CHANGED, by=by, on=active, detail="is_active: no")
    return active.update(is_active=False, token_version=F("token_version") + 1)


def delete(user: User, *, by: int | None) -> None:
    """
    Remove an account with everything that is its owner's, in one transaction.

    An answer that is being written loses its row, which ends its writer, and with it
    its readers, within a second. On any error, and where a command is interrupted, the
    account is what it was.
    """
    mine = User.objects.filter(pk=user.pk)
    was_active = list(mine.values_list("is_active", flat=True))
    # From here on nothing is begun in the user's name.
    mine.update(is_active=False)
    try:
        _delete_rows(mine, by=by)
    except BaseException:
        mine.update(is_active=was_active[0])
        raise
    cache.forget_owner(user.pk)


def _forget_names(users: QuerySet[User]) -> None:
    """What Django's admin noted of changes to an account bears the user's name."""
    ids = [str(pk) for pk in users.values_list("pk", flat=True)]
    kind = ContentType.objects.get_for_model(User)
    LogEntry.objects.filter(content_type=kind, object_id__in=ids).delete()


def _delete_rows(mine: QuerySet[User], *, by: int | None) -> None:
    """Delete a user and the rows below it, once what was under way lets go of them."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            with transaction.atomic():
                audit.record_each(Action.DELETED, by=by, on=mine)
                _forget_names(mine)
                mine.delete()
            return
        except (IntegrityError, OperationalError):
            # A request put a row under one that had just gone, or holds one of them.
            if time.monotonic() > give_up_at:
                raise
            time.sleep(BETWEEN_ATTEMPTS)
