"""What clients were told, and what must therefore be found in the histories; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The promise: a crash loses at most this much of an answer, in seconds.
MAY_LOSE = 1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise: its kind, and what exactly was seen."""

    kind: str
    seen: str


@dataclass(slots=True)
class Entry:
    """One question of a client, and what the client was told of it."""

    question: str
    key: str
    deed: str = "message"
    message_id: int | None = None
    text: str = ""
    last_id: str = ""
    ending: str = ""
    ended_at: float = 0.0
    kills: list[float] = field(default_factory=list)
    grown: list[tuple[float, int]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        return self.message_id is not None or bool(self.ending)

    def note(self, name: str, data: Any, event_id: str, *, at: float) -> None:
        """An event has come, `at` seconds on the client's clock."""
        if name == "started":
            self._begin(data, at)
        elif name == "message":
            self.text += data
            self.grown.append((at, len(self.text)))
        elif name in {"done", "error"}:
            self.ending = data["status"]
        if event_id:
            self.last_id = event_id

    def _begin(self, data: Mapping[str, Any], at: float) -> None:
        number, offset = data["message_id"], data.get("text_offset", 0)
        if self.message_id not in {None, number}:
            self.faults.append(Fault("duplicated", f"{self.question}: {number}"))
        if offset > len(self.text):
            had = f"{self.question}: had {len(self.text)}, went on at {offset}"
            self.faults.append(Fault("gap", had))
        self.message_id = number
        self.text = self.text[:offset]
        self.grown.append((at, offset))

    def go_on(self, *, key: str) -> None:
        """The client asks for the rest of an answer that was interrupted."""
        self.deed, self.key, self.last_id, self.ending = "continue", key, "", ""
        self.kills, self.grown = [], []

    def seconds_lost(self, stored: int) -> float:
        """How long the client had had, at the crash, what was not `stored`."""
        had = next((at for at, length in self.grown if length > stored), None)
        if had is None:
            return 0.0
        return next((kill - had for kill in self.kills if kill > had), 0.0)


def faults_in(
    entries: Sequence[Entry], messages: Sequence[Mapping[str, Any]], *, said: Any
) -> Iterator[Fault]:
    """
    Compare a client's entries with its conversation's history.

    `said` is what the model says to a question, as far as it might ever go on.
    """
    yield from _questions(entries, [m["content"] for m in messages if _is_question(m)])
    answers = {m["message_id"]: m for m in messages if not _is_question(m)}
    for entry in entries:
        yield from entry.faults
        if entry.message_id is None:
            continue
        stored = answers.get(entry.message_id)
        if stored is None:
            yield Fault("lost", f"the answer to {entry.question}")
        else:
            yield from _answer(entry, stored, said(entry.question))


def _is_question(message: Mapping[str, Any]) -> bool:
    return bool(message["role"] == "user")


def _questions(entries: Iterable[Entry], stored: Sequence[str]) -> Iterator[Fault]:
    acknowledged = [entry.question for entry in entries if entry.acknowledged]
    times = Counter(stored)
    yield from (Fault("lost", one) for one in acknowledged if not times[one])
    yield from (Fault("duplicated", one) for one in times if times[one] > 1)
    known = set(acknowledged)
    if set(times) >= known and [one for one in times if one in known] != acknowledged:
        yield Fault("out of order", ", ".join(times))


def _answer(entry: Entry, stored: Mapping[str, Any], said: str) -> Iterator[Fault]:
    text, status = stored["content"], stored.get("status", "complete")
    if not said.startswith(text):
        yield Fault("altered", f"{entry.question}: {text[-80:]!r} is not what was said")
    if (lost := entry.seconds_lost(len(text))) > MAY_LOSE:
        yield Fault("partial", f"{entry.question}: {lost:.2f} s were not stored")
    if not entry.ending:
        return
    if entry.ending != status:
        told = f"{entry.question}: told {entry.ending}, stored {status}"
        yield Fault("altered", told)
    if entry.text != text:
        lengths = f"{len(entry.text)} of {len(text)} characters"
        yield Fault("altered", f"{entry.question}: told {lengths}")
