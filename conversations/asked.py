"""What can be asked in a conversation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """Something new is asked, at the end of the active branch."""

    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A question of the active branch is asked anew, in other words, beside it."""

    message_id: int
    text: str


@dataclass(frozen=True, slots=True)
class Regenerate:
    """A question is answered anew, beside the answer named; None: the last one."""

    message_id: int | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """The answer named goes on where it broke off; None: the last one."""

    message_id: int | None = None


Asked = Question | Edit | Regenerate | Continue
