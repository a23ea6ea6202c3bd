"""How long a provider may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """
    Seconds a provider has.

    `first_token` counts from the call and covers every retry; `silence` is between
    any two reads; `total` counts from the call; `tail` is from the finish reason to
    the end of the stream.
    """

    connect: float = 10.0
    first_token: float = 60.0
    silence: float = 60.0
    total: float = 900.0
    tail: float = 2.0
