"""A short soak, and that an answer with a letter less would be seen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from benchmarks.soak.readers import is_exact, unchunked
from benchmarks.soak.soak import Size, soaked

SAID = "Once upon a time 🦀"
SEALED = f"{SAID} sha256={hashlib.sha256(SAID.encode()).hexdigest()}"


def test_a_sealed_answer_is_exact() -> None:
    assert is_exact(SEALED)


@pytest.mark.parametrize(
    "text", ["", SAID, SEALED[1:], SEALED[:-1], SEALED.replace("a time", "time a")]
)
def test_one_that_lacks_or_swaps_anything_is_not(text: str) -> None:
    assert not is_exact(text)


def test_a_chunked_body_is_joined() -> None:
    assert unchunked(b"3\r\nOne\r\nb\r\n\r\n two\r\n456\r\n0\r\n\r\n") == (
        b"One\r\n two\r\n456"
    )


async def test_streams_are_exact_and_leave_nothing_behind(tmp_path: Path) -> None:
    found = await soaked(tmp_path, Size(seconds=4, streams=12, away=2, large=8))

    assert found.figures["exact"] == found.figures["streams"] == 12
    assert found.figures["stored_as_told"] == 13
    assert found.figures["pieces"] == 12 * 8
    assert found.figures["took_nothing"] == 4
    # Delays and memory are for a machine that does nothing else.
    named = {broken.partition(" ")[0] for broken in found.broken}
    assert named <= {"growth", "delay_p99_ms"}
