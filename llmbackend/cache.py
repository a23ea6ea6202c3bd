"""
Redis as a cache that may be absent, slow or dead: then nothing is found in it.

After a failure it is left alone for a few seconds, so that a Redis that hangs costs
one request its time-out, not every request. So is one that answers late.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.core.cache import caches
from django_redis.serializers.base import BaseSerializer

logger = logging.getLogger(__name__)
T = TypeVar("T")

REST_AFTER_FAILURE = 5.0
# Seconds that a call may take; far more than it does, and less than is felt.
LATE = 0.4
# What is wrong in each state but `ok`, to be said of Redis.
TROUBLES = {
    "slow": "is too slow to be of use",
    "refusing": "is full, or has another password",
    "unreachable": "cannot be reached",
}


class Serializer(BaseSerializer):
    """JSON, in a fifth of the time that django-redis takes for it."""

    def dumps(self, value: Any) -> bytes:
        return msgspec.json.encode(value)

    def loads(self, value: bytes) -> Any:
        return msgspec.json.decode(value)


class TooLate(Exception):
    """Redis answered, but a cache that is so slow is none."""


class Breaker:
    """Remembers a failure for a while; one for all threads of the process."""

    def __init__(self) -> None:
        self._closed_until = 0.0
        self._logged_at = -60.0
        self._lock = threading.Lock()

    def resting(self) -> bool:
        return time.monotonic() < self._closed_until

    def trip(self, error: Exception) -> None:
        now = time.monotonic()
        with self._lock:
            self._closed_until = now + REST_AFTER_FAILURE
            if now - self._logged_at < 10:
                return
            self._logged_at = now
        logger.warning("Redis cannot be used (%s)", type(error).__name__)

    def reset(self) -> None:
        self._closed_until = 0.0


breaker = Breaker()


@lru_cache(maxsize=1)
def failures() -> tuple[type[Exception], ...]:
    """What asking Redis may raise."""
    # The client is 6 MB: where there is no Redis, nobody comes here.
    from django_redis.exceptions import ConnectionInterrupted
    from redis.exceptions import RedisError

    return (ConnectionInterrupted, RedisError, OSError, ValueError)


def get(key: str) -> Any:
    """The value cached under `key`; None when there is none, or no Redis."""
    return _guarded(lambda cache: cache.get(key), otherwise=None)


def put(key: str, value: Any, *, seconds: int) -> bool:
    """Cache what msgspec makes JSON of for `seconds`; whether that could be done."""
    return bool(_guarded(lambda cache: cache.set(key, value, seconds), otherwise=False))


def forget(keys: Sequence[str]) -> None:
    """Remove `keys`, if they can be reached."""
    _guarded(lambda cache: cache.delete_many(keys), otherwise=None)


def owned_key(owner_id: int, name: str) -> str:
    """The key of something of a user's, which is forgotten with its owner."""
    return f"owner:{owner_id}:{name}"


def forget_owner(owner_id: int) -> None:
    """Remove everything under a user's `owned_key`, if it can be reached."""
    pattern = owned_key(owner_id, "*")
    _guarded(lambda cache: cache.delete_pattern(pattern), otherwise=None)


def count(key: str, *, seconds: int, anew: bool = False) -> tuple[int, int] | None:
    """
    Count under `key`, which is forgotten `seconds` after it was first counted.

    With `anew` it is forgotten so long after this time instead.

    The count, this one included, and the seconds left; None when there is no Redis.
    """

    def ask(cache: Any) -> tuple[int, int]:
        name = cache.client.make_key(key)
        pipe = cache.client.get_client(write=True).pipeline(transaction=True)
        pipe.set(name, 0, ex=seconds, nx=True)
        if anew:
            pipe.expire(name, seconds)
        *_, counted, left = pipe.incr(name).ttl(name).execute()
        return counted, left

    return _guarded(ask, otherwise=None)


def counts(keys: Sequence[str]) -> dict[str, tuple[int, int]] | None:
    """
    The count and the seconds left of those of `keys` that were counted.

    None when there is no Redis.
    """

    def ask(cache: Any) -> dict[str, tuple[int, int]]:
        pipe = cache.client.get_client(write=False).pipeline(transaction=True)
        for name in map(cache.client.make_key, keys):
            pipe.get(name).ttl(name)
        found = pipe.execute()
        rows = zip(keys, found[::2], found[1::2], strict=True)
        return {key: (int(counted), left) for key, counted, left in rows if counted}

    return _guarded(ask, otherwise=None)


def state() -> str:
    """
    How the configured Redis does: `ok`, or one of TROUBLES.

    It is asked now, whatever happened before, and asked to store something: one that is
    full still answers.
    """
    # As in `failures`.
    from redis.exceptions import AuthenticationError, ResponseError

    began = time.monotonic()
    try:
        client = _redis(_location()).client
        client.get_client(write=True).set(client.make_key("probe"), 1, ex=1)
    except (ResponseError, AuthenticationError) as exc:
        breaker.trip(exc)
        return "refusing"
    except failures() as exc:
        breaker.trip(exc)
        return "unreachable"
    if _rest_if_late(began):
        return "slow"
    breaker.reset()
    return "ok"


def _guarded(ask: Callable[[Any], T], *, otherwise: T) -> T:
    if not settings.CONFIG.redis.address or breaker.resting():
        return otherwise
    began = time.monotonic()
    try:
        found = ask(_redis(_location()))
    except failures() as exc:
        breaker.trip(exc)
        return otherwise
    _rest_if_late(began)
    return found


def _rest_if_late(began: float) -> bool:
    late = time.monotonic() - began > LATE
    if late:
        breaker.trip(TooLate())
    return late


# Django's own `caches` makes a new one for every request, which costs more than
# asking it; this one may be used by all threads at once.
@lru_cache(maxsize=1)
def _redis(location: str) -> Any:
    return caches.create_connection("default")


def _location() -> str:
    return str(settings.CACHES["default"]["LOCATION"])
