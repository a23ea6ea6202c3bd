"""Personal API keys: for programs, with part of what their owner may do."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit
from accounts.audit import Action
from accounts.grants import Grant
from accounts.models import ApiKey, ApiKeyQuerySet, User
from llmbackend.errors import Unauthorized

logger = logging.getLogger(__name__)

PREFIX = "llmb_"
# 256 random bits need no slow hash: nobody guesses them.
_KEY = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
_USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyClaims:
    """What an API key says by itself: which it is."""

    key_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    A key to be made: what it is called and what it opens.

    Of bases and models None is all; a model may be a pattern, such as `gpt*`.
    """

    name: str
    scopes: Sequence[str]
    knowledge_bases: Sequence[uuid.UUID] | None = None
    chat_models: Sequence[str] | None = None
    expires_at: datetime | None = None


@transaction.atomic
def make(*, owner: User, wanted: Wanted) -> tuple[ApiKey, str]:
    """A new key as it is stored, and as it is shown this once."""
    text = PREFIX + secrets.token_urlsafe(32)
    bases = wanted.knowledge_bases
    stored = ApiKey.objects.create(
        owner=owner,
        name=wanted.name,
        hash=_hash(text),
        hint=text[-4:],
        scopes=list(wanted.scopes),
        knowledge_bases=None if bases is None else [str(base) for base in bases],
        chat_models=wanted.chat_models,
        created_at=timezone.now(),
        expires_at=wanted.expires_at,
    )
    audit.record(Action.KEY_SET, by=owner.pk, on=stored)
    return stored, text


def remove(*, owner: User, key_id: uuid.UUID) -> None:
    """End an owned key; raises NotFound."""
    end(ApiKey.objects.owned_by(owner).fetch(key_id), by=owner.pk)


@transaction.atomic
def end(key: ApiKey, *, by: int | None) -> None:
    """End a key: it opens nothing any more."""
    audit.record(Action.KEY_ENDED, by=by, on=key)
    key.delete()


def claims_of(text: str) -> KeyClaims:
    """Which key `text` is, if it is one; raises Unauthorized. No database."""
    if not _KEY.fullmatch(text):
        raise Unauthorized
    return KeyClaims(key_hash=_hash(text))


def owner_of(claims: KeyClaims) -> User:
    """The key's active owner, with what the key grants; raises Unauthorized."""
    key = _good().filter(hash=claims.key_hash).select_related("owner").first()
    if key is None:
        raise Unauthorized
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > _USE_NOTED_EVERY:
        _note_use(key, now)
    user = key.owner
    user.grant = grant_of(key)
    return user


def _note_use(key: ApiKey, now: datetime) -> None:
    """Nothing is refused because this cannot be stored."""
    try:
        with transaction.atomic():
            ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    except DatabaseError as exc:
        logger.warning("An API key's use was not noted (%s)", type(exc).__name__)


def grant_of(key: ApiKey) -> Grant:
    bases, models = key.knowledge_bases, key.chat_models
    return Grant(
        scopes=frozenset(key.scopes),
        knowledge_bases=None if bases is None else frozenset(map(uuid.UUID, bases)),
        chat_models=None if models is None else tuple(models),
    )


def ended(held: Collection[KeyClaims]) -> set[KeyClaims]:
    """Those of the keys that open nothing any more."""
    hashes = [claims.key_hash for claims in held]
    good = set(_good().filter(hash__in=hashes).values_list("hash", flat=True))
    return {claims for claims in held if claims.key_hash not in good}


def _good() -> ApiKeyQuerySet:
    unexpired = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    return ApiKey.objects.filter(unexpired, owner__is_active=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
