"""
Tickets: what a browser's EventSource, which sends no header, reads one stream with.

A ticket is signed, lives a quarter of an hour and opens the stream of one conversation,
as the token or API key it was made with and for as long as that is good.
"""

from __future__ import annotations

from dataclasses import asdict

from django.core import signing

from accounts.api_keys import KeyClaims
from accounts.tokens import Claims, TokenClaims
from llmbackend.errors import Unauthorized

LIFETIME = 900
_SALT = "chat.ticket"


def issue(claims: Claims, *, conversation_id: int) -> str:
    """A ticket for the stream of one conversation."""
    said = {"conversation": conversation_id, "claims": asdict(claims)}
    return signing.dumps(said, salt=_SALT)


def claims_of(ticket: str, *, conversation_id: int) -> Claims:
    """Whose ticket it is; raises Unauthorized for any that does not open this."""
    try:
        said = signing.loads(ticket, salt=_SALT, max_age=LIFETIME)
        if said["conversation"] == conversation_id:
            claims = said["claims"]
            kind = KeyClaims if "key_hash" in claims else TokenClaims
            return kind(**claims)
    except (signing.BadSignature, KeyError, TypeError) as exc:
        raise Unauthorized("A valid ticket or bearer token is required.") from exc
    raise Unauthorized("This ticket is for another conversation.")
