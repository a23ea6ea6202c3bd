"""What happens to an answer, as its readers are told; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Cursor(NamedTuple):
    """A position in an answer: code points of reasoning and of text."""

    reasoning: int = 0
    text: int = 0


START = Cursor()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Which answer this is, and the passages it rests on; None without a base."""

    conversation_id: int
    question_id: int
    message_id: int
    model: str
    provider: str
    sources: Sequence[dict[str, Any]] | None = None


class Growth(NamedTuple):
    """What came since a reader last looked, and where it stands afterwards."""

    message_id: int
    reasoning: str
    text: str
    cursor: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """
    How an answer ended; `error` is empty when it is complete or stopped.

    `unknown_sources` are the numbers it cites that name none of its sources.
    """

    message_id: int
    status: str
    finish_reason: str = ""
    usage: dict[str, Any] | None = None
    error: str = ""
    code: str = ""
    retryable: bool = False
    cursor: Cursor = START
    full_text: str = ""
    unknown_sources: Sequence[int] = ()
