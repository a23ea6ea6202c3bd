"""Passwords that are given to prove who one is; failures are counted."""

from __future__ import annotations

from django.contrib.auth import authenticate

from accounts import audit
from accounts.models import User
from accounts.throttles import PasswordThrottle
from llmbackend.errors import InvalidCredentials, WrongPassword


def authenticated(*, username: str, password: str, address: str) -> User:
    """
    The active user of that name and password, asked for from `address`.

    Raises InvalidCredentials, and RateLimited after too many failures.
    """
    throttle = PasswordThrottle(username=username, address=address)
    throttle.check()
    user = authenticate(username=username, password=password)
    if user is None:
        audit.record_failure(username=username)
        throttle.failed()
        raise InvalidCredentials
    throttle.succeeded()
    return user


def confirm(user: User, *, password: str, address: str) -> None:
    """
    Make sure that a signed-in user is there in person.

    Raises WrongPassword, and RateLimited after too many failures.
    """
    throttle = PasswordThrottle(username=user.username, address=address)
    throttle.check()
    if not user.check_password(password):
        audit.record_failure(username=user.username, by=user.pk)
        throttle.failed()
        raise WrongPassword
