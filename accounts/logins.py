"""
A log-in: a family of tokens, from the password to the log-out.

It begins with a bearer token and a refresh token. Renewing it takes the refresh token
and gives the next two; a refresh token that comes a second time was copied, so that
the whole family ends. What was ended is remembered until it would have expired.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts import audit
from accounts.audit import Action
from accounts.models import RevokedToken, User
from accounts.tokens import (
    TokenClaims,
    issue,
    issue_refresh,
    refresh_claims_of,
    user_unless_revoked,
)
from llmbackend.errors import Unauthorized

LOG_IN_AGAIN = "A valid refresh token is required; log in again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A bearer token, and what gets the next one."""

    token: str
    refresh: str


def begin(user: User) -> Tokens:
    """Log `user` in, and note when."""
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(last_login=timezone.now())
        audit.record(Action.LOGGED_IN, by=user.pk, on=user)
    return _tokens(user, family=uuid.uuid4().hex)


def renew(refresh: str) -> Tokens:
    """
    The next tokens of a log-in.

    Raises Unauthorized for a token that is no longer good, and ends the log-in if it
    was used before.
    """
    try:
        claims = refresh_claims_of(refresh)
        user = user_unless_revoked(claims, jti=claims.family)
    except Unauthorized:
        raise Unauthorized(LOG_IN_AGAIN) from None
    expiry = datetime.fromtimestamp(claims.expires_at, UTC)
    if not _revoke(claims.jti, until=expiry):
        end(claims, why="a refresh token came a second time")
        raise Unauthorized(LOG_IN_AGAIN)
    return _tokens(user, family=claims.family)


@transaction.atomic
def end(claims: TokenClaims, *, why: str = "") -> None:
    """Log out: no token of this log-in is good any more."""
    longest = timezone.now() + max(AccessToken.lifetime, RefreshToken.lifetime)
    # One that was issued before jwt.lifetime_hours was made less lives longer.
    expiry = datetime.fromtimestamp(claims.expires_at, UTC)
    if _revoke(claims.family, until=max(longest, expiry)):
        user = User(pk=claims.user_id)
        audit.record(Action.LOGGED_OUT, by=user.pk, on=user, detail=why)


@transaction.atomic
def end_all(users: QuerySet[User], *, by: int | None) -> int:
    """
    Log out everywhere: no token that was issued to them is good any more.

    Returns how many users that are.
    """
    audit.record_each(Action.TOKENS_ENDED, by=by, on=users)
    return users.update(token_version=F("token_version") + 1)


def _revoke(jti: str, *, until: datetime) -> bool:
    """Remember that `jti` has ended; whether that is news."""
    RevokedToken.objects.filter(expires_at__lt=timezone.now()).delete()
    _, is_news = RevokedToken.objects.get_or_create(
        jti=jti, defaults={"expires_at": until}
    )
    return is_news


def _tokens(user: User, *, family: str) -> Tokens:
    return Tokens(
        token=issue(user, family=family), refresh=issue_refresh(user, family=family)
    )
