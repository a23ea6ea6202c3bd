"""An account as it leaves the server: what its owner may know of it, no secret."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from accounts.models import ApiKey, User

TOLD = ("username", "email", "first_name", "last_name", "is_staff", "is_active")


def account(user: User) -> dict[str, Any]:
    """Who somebody is, with the names and limits of their API keys."""
    keys = ApiKey.objects.owned_by(user).order_by("created_at", "pk")
    return {
        "user_id": user.pk,
        **{name: getattr(user, name) for name in TOLD},
        "created_at": iso(user.date_joined),
        "last_login_at": iso(user.last_login),
        "api_keys": [api_key(key) for key in keys],
    }


def api_key(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": str(key.pk),
        "name": key.name,
        "scopes": key.scopes,
        "kb_ids": key.knowledge_bases,
        "models": key.chat_models,
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "last_used_at": iso(key.last_used_at),
    }


def iso(moment: datetime | None) -> str | None:
    """To the microsecond, as the database has it."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
