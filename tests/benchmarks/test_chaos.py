"""Five cycles of a kill and a restart; and that a broken promise would be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.cycles import Chaos
from benchmarks.chaos.ledger import Entry, Fault, faults_in
from tests import fake_provider

SAID = "Once upon a time there was a swift."


def entry(number: int = 1, *, text: str = SAID, ending: str = "complete") -> Entry:
    """A question, and what its client was told: half of it, then the rest."""
    made = Entry(question=f"Question {number}", key=f"key {number}")
    made.note("started", {"message_id": 2 * number}, "", at=10.0)
    half = len(text) // 2
    made.note("message", text[:half], f"{2 * number}-0-{half}", at=11.0)
    made.note("message", text[half:], f"{2 * number}-0-{len(text)}", at=12.0)
    if ending:
        name = "done" if ending == "complete" else "error"
        made.note(name, {"status": ending}, "", at=13.0)
    return made


def turn(
    number: int = 1, *, text: str = SAID, status: str = "complete"
) -> list[dict[str, Any]]:
    """A question and its answer, as a history has them."""
    shown = {} if status == "complete" else {"status": status}
    question = {"role": "user", "content": f"Question {number}"}
    answer = {"role": "assistant", "content": text, **shown}
    return [
        {**question, "message_id": 2 * number - 1},
        {**answer, "message_id": 2 * number},
    ]


def kinds(entries: list[Entry], messages: list[dict[str, Any]]) -> list[str]:
    found = faults_in(entries, messages, said=lambda question: SAID + " And then.")
    return [fault.kind for fault in found]


class TestTheComparison:
    def test_what_was_kept_is_no_fault(self) -> None:
        assert kinds([entry(1), entry(2)], turn(1) + turn(2)) == []

    def test_a_question_that_is_gone_is_lost(self) -> None:
        assert kinds([entry(1), entry(2)], turn(2)) == ["lost", "lost"]

    def test_one_that_nobody_acknowledged_is_not(self) -> None:
        unheard = Entry(question="Question 2", key="key 2")

        assert kinds([entry(1), unheard], turn(1)) == []

    def test_a_question_stored_twice_is_seen(self) -> None:
        twice = [*turn(1), *turn(1), *turn(2)]

        assert "duplicated" in kinds([entry(1), entry(2)], twice)

    def test_a_question_answered_in_two_messages_is_seen(self) -> None:
        asked = entry(1, ending="")
        asked.note("started", {"message_id": 4}, "", at=20.0)

        assert "duplicated" in kinds([asked], turn(1))

    def test_another_order_is_seen(self) -> None:
        assert kinds([entry(1), entry(2)], turn(2) + turn(1)) == ["out of order"]

    def test_a_text_that_was_not_said_is_seen(self) -> None:
        asked = entry(1, text="Once upon a a time")

        assert kinds([asked], turn(1, text="Once upon a a time")) == ["altered"]

    def test_a_text_other_than_was_told_is_seen(self) -> None:
        assert kinds([entry(1)], turn(1, text=SAID[:-1])) == ["altered"]

    def test_an_end_other_than_was_told_is_seen(self) -> None:
        assert kinds([entry(1)], turn(1, status="interrupted")) == ["altered"]

    def test_a_reader_sent_on_behind_what_it_has_is_seen(self) -> None:
        asked = entry(1, text=SAID[:8], ending="")
        asked.note("started", {"message_id": 2, "text_offset": 9}, "", at=20.0)

        assert kinds([asked], turn(1)) == ["gap"]

    @pytest.mark.parametrize(("killed", "found"), [(11.9, []), (12.1, ["partial"])])
    def test_more_than_a_second_must_be_stored(
        self, killed: float, found: list[str]
    ) -> None:
        stored = len(SAID) // 2 - 1  # The client had more at 11.0 already.
        asked = entry(1, ending="")
        asked.kills.append(killed)

        after = turn(1, text=SAID[:stored], status="interrupted")

        assert kinds([asked], after) == found


@pytest.mark.timeout(300)
async def test_five_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with fake_provider.running() as provider:
        chaos = Chaos(tmp_path, provider, seed=5)
        cycles = [cycle async for cycle in chaos.run(5)]

    faults = [fault for cycle in cycles for fault in cycle.faults]
    # How soon a process starts is up to who else uses the machine.
    assert [fault for fault in faults if fault.kind != "slow start"] == list[Fault]()
    assert len(cycles) == 5
    assert sum(cycle.cut for cycle in cycles) > 5
    assert cycles[-1].acknowledged > 8
