"""Seal a conversation's API key so that only its owner, at its provider, can use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from llmbackend.errors import StoredKeyUnreadable

_VERSION = 1
_DEFAULT_PORTS = {"http": 80, "https": 443}


def seal(plaintext: str, *, keys: Sequence[str], owner_id: int, origin: str) -> str:
    """
    Encrypt `plaintext` with the first of `keys`, bound to an owner and an origin.

    The binding is inside the ciphertext: a row copied to another user, or a provider
    moved to another host, does not carry the key along.
    """
    sealed = {"v": _VERSION, "owner": owner_id, "origin": origin, "key": plaintext}
    return _cipher(keys).encrypt(json.dumps(sealed).encode()).decode()


def unseal(token: str, *, keys: Sequence[str], owner_id: int, origin: str) -> str:
    """Return what was sealed for this owner and origin; raise StoredKeyUnreadable."""
    try:
        opened = json.loads(_cipher(keys).decrypt(token.encode()))
    except (InvalidToken, ValueError):
        # Without its cause, which may carry the plaintext.
        raise StoredKeyUnreadable from None
    match opened:
        case {"v": version, "owner": owner, "origin": place, "key": str(plaintext)}:
            bound = (version, owner, place) == (_VERSION, owner_id, origin)
        case _:
            raise StoredKeyUnreadable
    if not bound:
        raise StoredKeyUnreadable
    return plaintext


def resealed(token: str, *, keys: Sequence[str]) -> str:
    """The same, sealed with the first of `keys`; InvalidToken if none opens it."""
    return _cipher(keys).rotate(token.encode()).decode()


def origin_of(base_url: str) -> str:
    """
    Reduce a provider's http(s) URL to `scheme://host:port`; ValueError if it has none.

    >>> origin_of("https://API.openai.com/v1")
    'https://api.openai.com:443'
    """
    parts = urlsplit(base_url)
    host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    if not host or parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("expected an http(s) URL with a host")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _cipher(keys: Sequence[str]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
