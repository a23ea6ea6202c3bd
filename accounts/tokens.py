"""Bearer tokens: issued at log-in, verified at every request, ended at once."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.db.models import Exists, QuerySet
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts import api_keys
from accounts.api_keys import KeyClaims
from accounts.models import RevokedToken, User
from llmbackend.errors import Unauthorized
from llmbackend.prepared import SelectObject, given


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """
    What a token with a good signature says.

    `family` is the log-in it comes from: all tokens of one log-in end together.
    `joined` is when its account was made, in seconds: after a restore the number of
    one that was made since the backup comes to be another's.
    """

    user_id: int
    version: int
    jti: str
    family: str
    expires_at: float
    # None: issued by a version that did not say so.
    joined: int | None = None


def _holder() -> QuerySet[User]:
    ended = [given(RevokedToken, "jti"), given(RevokedToken, "jti", "family")]
    users = User.objects.filter(
        pk=given(User, "id"), token_version=given(User, "token_version"), is_active=True
    )
    return users.exclude(Exists(RevokedToken.objects.filter(jti__in=ended)))


_HOLDER = SelectObject(_holder)

# What a request says of who makes it, before the database is asked.
Claims = TokenClaims | KeyClaims


def issue(user: User, *, family: str = "") -> str:
    """
    A new bearer token for `user`, valid for jwt.lifetime_hours.

    Without a `family` it is one of its own, which cannot be renewed.
    """
    return _signed(AccessToken.for_user(user), user=user, family=family)


def issue_refresh(user: User, *, family: str) -> str:
    """What gets the next bearer token of `family`; opens nothing by itself."""
    return _signed(RefreshToken.for_user(user), user=user, family=family)


def _signed(token: AccessToken | RefreshToken, *, user: User, family: str) -> str:
    token["ver"] = user.token_version
    token["joined"] = _joined(user)
    if family:
        token["fam"] = family
    return str(token)


def claims_of(token: str) -> Claims:
    """Check signature, form and expiry; raise Unauthorized. No database."""
    if token.startswith(api_keys.PREFIX):
        return api_keys.claims_of(token)
    return _unexpired(_signed_claims(token))


# The signature's check costs more than all else about a token, and its outcome
# cannot change; expiry, log-out and deactivation can, and are checked each time.
@lru_cache(maxsize=4096)
def _signed_claims(token: str) -> TokenClaims:
    return _read(AccessToken, token)


def refresh_claims_of(token: str) -> TokenClaims:
    """The same of a refresh token."""
    return _unexpired(_read(RefreshToken, token))


def _unexpired(claims: TokenClaims) -> TokenClaims:
    if claims.expires_at <= time.time():
        raise Unauthorized
    return claims


def _read(kind: type[AccessToken | RefreshToken], token: str) -> TokenClaims:
    try:
        payload = kind(token).payload  # type: ignore[arg-type]
        return TokenClaims(
            user_id=_stored(payload["user_id"]),
            version=_stored(payload["ver"]),
            jti=str(payload["jti"]),
            family=str(payload.get("fam") or payload["jti"]),
            expires_at=float(payload["exp"]),
            joined=payload.get("joined"),
        )
    except (TokenError, KeyError, TypeError, ValueError, OverflowError) as exc:
        raise Unauthorized from exc


def _stored(claim: Any) -> int:
    """A number that a row can have; raises ValueError and TypeError."""
    number = int(claim)
    if not 0 <= number < 2**63:
        raise ValueError("no number of a row")
    return number


def user_for(claims: Claims, *, scope: str = "") -> User:
    """
    The active user `claims` stand for, in one query, with what they may do.

    Raises Unauthorized, and Forbidden for an API key without the `scope` asked for.
    """
    if isinstance(claims, KeyClaims):
        user = api_keys.owner_of(claims)
    elif claims.expires_at <= time.time():
        # They may be older than the request: a ticket's, or a WebSocket's.
        raise Unauthorized
    else:
        user = user_unless_revoked(claims, jti=claims.jti)
    if scope:
        user.grant.require(scope)
    return user


def user_unless_revoked(claims: TokenClaims, *, jti: str) -> User:
    """The active user of `claims`, if neither `jti` nor the family is revoked."""
    user = _HOLDER.first(
        id=claims.user_id, token_version=claims.version, jti=jti, family=claims.family
    )
    if user is None or claims.joined not in (None, _joined(user)):
        raise Unauthorized
    return user


def _joined(user: User) -> int:
    return int(user.date_joined.timestamp())


def bearer_token(authorization: str) -> str:
    """The token of an Authorization header's value; raise Unauthorized."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized
    return token.strip()


def ended_claims(held: Collection[Claims]) -> set[Claims]:
    """Those of the claims that stand for nobody any more, in three queries at most."""
    keys = {claims for claims in held if isinstance(claims, KeyClaims)}
    tokens = {claims for claims in held if isinstance(claims, TokenClaims)}
    return {*_ended_tokens(tokens), *(api_keys.ended(keys) if keys else ())}


def _ended_tokens(held: Collection[TokenClaims]) -> set[TokenClaims]:
    users = User.objects.filter(
        pk__in={claims.user_id for claims in held}, is_active=True
    )
    versions = dict(users.values_list("pk", "token_version"))
    ids = {jti for claims in held for jti in (claims.jti, claims.family)}
    revoked = RevokedToken.objects.filter(jti__in=ids)
    gone = set(revoked.values_list("jti", flat=True))
    now = time.time()
    return {
        claims
        for claims in held
        if versions.get(claims.user_id) != claims.version
        or gone & {claims.jti, claims.family}
        or claims.expires_at <= now
    }
