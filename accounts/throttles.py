"""
How often passwords and registrations may be tried.

Failures count for the account, wherever they come from, and for the address, whatever
the account. An address from which someone logged in to an account lately has a count of
its own there, so that strangers' failures do not keep its owner out.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from django.conf import settings

from accounts import tallies
from accounts.models import folded
from llmbackend.errors import RateLimited

FAILURES_WINDOW = 15 * 60
REGISTRATIONS_WINDOW = 60 * 60
KNOWN_FOR = 30 * 24 * 60 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many failures may be counted under a key; 0 is any number."""

    key: str
    most: int


class PasswordThrottle:
    """
    Bounds the failures of one account from one address: check(), then what came of it.

    Nothing is held between the two: a password may take its time to be checked.
    """

    def __init__(self, *, username: str, address: str) -> None:
        config = settings.CONFIG.accounts
        account, network = folded(username), network_of(address)
        per_account = config.failed_logins_per_account
        self._known = key_for("known", account, network)
        self._own = Limit(
            key=key_for("failed-there", account, network), most=per_account
        )
        self._shared = [
            Limit(key=key_for("failed-account", account), most=per_account),
            Limit(
                key=key_for("failed-address", network),
                most=config.failed_logins_per_address,
            ),
        ]
        self._limits: list[Limit] = []
        self._exempt = is_exempt(address)

    def check(self) -> None:
        """Raise RateLimited if there were too many failures, before any hash."""
        if self._exempt:
            return
        limits = [self._own, *self._shared]
        seen = tallies.read([self._known, *(limit.key for limit in limits)])
        is_known = self._known in seen and self._own.most
        self._limits = [self._own] if is_known else self._shared
        refuse_if_waiting(
            seen[limit.key].seconds_left
            for limit in self._limits
            if limit.key in seen and 0 < limit.most <= seen[limit.key].count
        )

    def failed(self) -> None:
        """Count a failure; raise RateLimited if it was one too many after all."""
        limits = [limit for limit in self._limits if limit.most]
        counted = [
            (limit, tallies.count(limit.key, seconds=FAILURES_WINDOW))
            for limit in limits
        ]
        refuse_if_waiting(
            tally.seconds_left for limit, tally in counted if tally.count > limit.most
        )

    def succeeded(self) -> None:
        """Remember that the account's owner is at this address."""
        if not self._exempt:
            tallies.count(self._known, seconds=KNOWN_FOR, anew=True)


def count_registration(address: str) -> None:
    """Count one more from `address`; raises RateLimited."""
    most = settings.CONFIG.accounts.registrations_per_address
    if not most or is_exempt(address):
        return
    key = key_for("registered", network_of(address))
    counted = tallies.count(key, seconds=REGISTRATIONS_WINDOW)
    if counted.count > most:
        raise RateLimited(
            "Too many registrations from this address; try again later.",
            retry_after=counted.seconds_left,
        )


def refuse_if_waiting(seconds: Iterable[int]) -> None:
    """Raise RateLimited for the longest of `seconds`, if there are any."""
    wait = max(seconds, default=0)
    if wait:
        raise RateLimited("Too many failed log-ins; try again later.", retry_after=wait)


def is_exempt(address: str) -> bool:
    """Whether `address` is this machine, and no proxy that calls for others."""
    with suppress(ValueError):
        is_here = ipaddress.ip_address(address).is_loopback
        return is_here and not settings.CONFIG.server.trusted_proxies
    return False


def network_of(address: str) -> str:
    """
    What one client has of addresses: of IPv6 it is commonly a /64.

    >>> network_of("2001:db8::1:2:3:4"), network_of("192.0.2.7"), network_of("-")
    ('2001:db8::/64', '192.0.2.7', '-')
    """
    with suppress(ValueError):
        if ipaddress.ip_address(address).version == 6:
            return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return address


def key_for(kind: str, *parts: str) -> str:
    """A key of bounded length, in which nobody reads a name or an address."""
    digest = hashlib.sha256("\0".join(parts).encode())
    return f"{kind}:{digest.hexdigest()}"
