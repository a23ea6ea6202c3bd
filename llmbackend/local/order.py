"""What the server tells its model process at the start, and what it hears back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from llmbackend.local.weights import Models


@dataclass(frozen=True, kw_only=True)
class Order:
    """The one line on the process's standard input."""

    key: str = field(repr=False)
    models: Models

    def to_line(self) -> bytes:
        """As `from_line` reads it, with the line's end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Raises ValueError, KeyError or TypeError for a line that is no order."""
        data = json.loads(line)
        return cls(key=data["key"], models=Models.from_json(data["models"]))


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """The one line on its standard output: a port once it listens, or why it cannot."""

    port: int = 0
    error: str = ""

    def to_line(self) -> bytes:
        """As `from_line` reads it, with the line's end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Announcement:
        """Raises ValueError or TypeError, also for the empty line of a dead process."""
        return cls(**json.loads(line))
