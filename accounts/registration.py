"""New accounts."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError

from accounts.models import User, folded
from llmbackend.errors import RegistrationClosed, UsernameTaken


def check_open() -> None:
    """Raise RegistrationClosed unless anybody may register."""
    if settings.CONFIG.accounts.registration != "open":
        raise RegistrationClosed


def register(*, username: str, password: str) -> User:
    """Create a user; raise UsernameTaken, whatever the case of the letters."""
    # Asked first, so that a taken name costs no hash.
    if User.objects.filter(username_folded=folded(username)).exists():
        raise UsernameTaken
    try:
        return User.objects.create_user(username, password=password)
    except IntegrityError as exc:
        raise UsernameTaken from exc
