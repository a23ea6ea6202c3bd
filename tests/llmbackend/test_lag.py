"""llmbackend.lag: a loop that is held up says so."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from llmbackend.lag import EVERY, LoopLag
from tests.logged import logged_here


async def test_a_loop_that_is_held_up_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch_forever())
    await asyncio.sleep(0)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            time.sleep(EVERY + 0.25)  # noqa: ASYNC251  This is what is measured.
            await asyncio.sleep(EVERY)
    watching.cancel()

    [told] = logged_here(caplog)
    assert "ms late" in told.getMessage()


async def test_a_free_loop_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch_forever())

    with caplog.at_level(logging.WARNING):
        await asyncio.sleep(2.5 * EVERY)
    watching.cancel()

    assert logged_here(caplog) == [] or lag.worst < EVERY
