"""Bearer tokens: issued at log-in, verified at every request, ended at once."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from django.db.models import Exists
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken

from accounts.models import RevokedToken, User
from llmbackend.errors import Unauthorized


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token with a good signature says."""

    user_id: int
    version: int
    jti: str
    expires_at: float


def issue(user: User) -> str:
    """A new bearer token for `user`, valid for jwt.lifetime_hours."""
    token = AccessToken.for_user(user)
    token["ver"] = user.token_version
    return str(token)


def claims_of(token: str) -> Claims:
    """Check signature, form and expiry; raise Unauthorized. No database."""
    claims = _signed_claims(token)
    if claims.expires_at <= time.time():
        raise Unauthorized
    return claims


# The signature's check costs more than all else about a token, and its outcome
# cannot change; expiry, log-out and deactivation can, and are checked each time.
@lru_cache(maxsize=4096)
def _signed_claims(token: str) -> Claims:
    try:
        payload = AccessToken(token).payload  # type: ignore[arg-type]
        return Claims(
            user_id=int(payload["user_id"]),
            version=int(payload["ver"]),
            jti=str(payload["jti"]),
            expires_at=float(payload["exp"]),
        )
    except (TokenError, KeyError, TypeError, ValueError, OverflowError) as exc:
        raise Unauthorized from exc


def user_for(claims: Claims) -> User:
    """The active user `claims` stand for, in one query; raise Unauthorized."""
    revoked = RevokedToken.objects.filter(jti=claims.jti)
    user = (
        User.objects.filter(
            pk=claims.user_id, is_active=True, token_version=claims.version
        )
        .exclude(Exists(revoked))
        .first()
    )
    if user is None:
        raise Unauthorized
    return user


def bearer_token(authorization: str) -> str:
    """The token of an Authorization header's value; raise Unauthorized."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized
    return token.strip()


def ended_claims(held: Collection[Claims]) -> set[Claims]:
    """Those of the claims that stand for nobody any more, in two queries."""
    users = User.objects.filter(
        pk__in={claims.user_id for claims in held}, is_active=True
    )
    versions = dict(users.values_list("pk", "token_version"))
    revoked = RevokedToken.objects.filter(jti__in=[claims.jti for claims in held])
    gone = set(revoked.values_list("jti", flat=True))
    now = time.time()
    return {
        claims
        for claims in held
        if versions.get(claims.user_id) != claims.version
        or claims.jti in gone
        or claims.expires_at <= now
    }
