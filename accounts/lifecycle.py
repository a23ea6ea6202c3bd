"""Accounts change and go; they begin with a registration."""

from __future__ import annotations

from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.db.models import F

from accounts.models import User
from llmbackend import cache

ATTEMPTS = 3


def change_password(user: User, *, new: str) -> User:
    """Replace the password, which ends all tokens; the user as stored now."""
    # Hashed before the row is touched: it takes a while.
    hashed = make_password(new)
    mine = User.objects.filter(pk=user.pk)
    mine.update(password=hashed, token_version=F("token_version") + 1)
    return mine.get()


def change_profile(user: User, **fields: str) -> User:
    """Store what the user says of themselves; the user as stored now."""
    mine = User.objects.filter(pk=user.pk)
    if fields:
        mine.update(**fields)
    return mine.get()


def delete(user: User) -> None:
    """
    Remove an account with everything that is its owner's, in one transaction.

    An answer that is being written loses its row, which ends its writer, and with it
    its readers, within a second.
    """
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            with transaction.atomic():
                User.objects.filter(pk=user.pk).delete()
            break
        except IntegrityError:
            # A request that was under way put a row under one that had just gone.
            if not attempts_left:
                raise
    cache.forget_owner(user.pk)
