"""
A request that is sent twice and carried out once: the header Idempotency-Key.

A key is claimed in the transaction that stores what was asked for. A second request
with the same key waits for that transaction, and finds what the first one made.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts.models import IdempotencyKey, User
from llmbackend.errors import IdempotencyMismatch, Invalid

KEPT = timedelta(hours=24)
LONGEST = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A key as it came with a request, and a hash of what was asked under it."""

    key: str
    fingerprint: str


def once(key: str, *asked: Any) -> Once | None:
    """
    The key of a request for `asked`, JSON-able values; None when it brings none.

    Raises Invalid for a key that is too long or not printable ASCII, and for what is
    nested too deeply to be compared.
    """
    if not key:
        return None
    if len(key) > LONGEST or not (key.isascii() and key.isprintable()):
        raise Invalid("Idempotency-Key: at most 255 printable ASCII characters.")
    try:
        said = json.dumps(asked, sort_keys=True, default=str).encode()
    except RecursionError:  # It was read with a level to spare.
        raise Invalid("The body is nested too deeply.") from None
    return Once(key=key, fingerprint=hashlib.sha256(said).hexdigest())


def claim(user: User, key: Once | None) -> str | None:
    """
    What the request of this key made before; None when it is now the caller's to do.

    To be called in the caller's transaction, before any limit is counted. Raises
    IdempotencyMismatch when the key stands for another request.
    """
    if key is None:
        return None
    keys = IdempotencyKey.objects
    mine = keys.filter(user=user, key=key.key)
    mine.filter(created_at__lt=Now() - KEPT).delete()
    claimed = IdempotencyKey(
        user=user, key=key.key, fingerprint=key.fingerprint, created_at=Now()
    )
    # Waits for a transaction that has just claimed the same key. A key that is there
    # is written as it was: thus locked, nobody gives it up before it is read.
    keys.bulk_create(
        [claimed],
        update_conflicts=True,
        unique_fields=["user", "key"],
        update_fields=["user"],
    )
    return _made(mine, key) or None


def made_before(user: User, key: Once | None) -> str:
    """
    What the request of this key made; empty where it did nothing yet.

    For what is looked up before the claim, and may have gone since. Raises
    IdempotencyMismatch.
    """
    if key is None:
        return ""
    mine = IdempotencyKey.objects.filter(user=user, key=key.key)
    return _made(mine.filter(created_at__gte=Now() - KEPT), key)


def _made(mine: QuerySet[IdempotencyKey], key: Once) -> str:
    found = mine.values_list("fingerprint", "made").first()
    if found is None:
        return ""
    if found[0] != key.fingerprint:
        raise IdempotencyMismatch
    return found[1]


def settle(user: User, key: Once | None, *, made: str) -> None:
    """Note what the request made, in the transaction that claimed the key."""
    if key is not None:
        IdempotencyKey.objects.filter(user=user, key=key.key).update(made=made)


def release(user: User, key: Once | None) -> None:
    """Give up a claim whose work failed, so that it can be asked for again."""
    if key is not None:
        IdempotencyKey.objects.filter(user=user, key=key.key).delete()


def forget_old_keys() -> int:
    """Remove the keys whose time is over; how many there were."""
    return IdempotencyKey.objects.filter(created_at__lt=Now() - KEPT).delete()[0]
