"""llmbackend.lag: a loop that is held up says so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from llmbackend.lag import EVERY, LoopLag
from tests.logged import logged_here


class Clock(selectors.DefaultSelector):
    """The time of a loop: it stands while anything runs, and jumps over all waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def watched(work: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    """Run `work` on a loop whose lag is measured."""

    async def run() -> None:
        watching = asyncio.create_task(LoopLag().watch_forever())
        await asyncio.sleep(0)
        await work(loop.clock)
        watching.cancel()

    with contextlib.closing(Loop()) as loop:
        loop.run_until_complete(run())


def test_a_loop_that_is_held_up_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def held_up(clock: Clock) -> None:
        for _ in range(2):
            clock.now += EVERY + 0.25
            await asyncio.sleep(EVERY)

    with caplog.at_level(logging.WARNING):
        watched(held_up)

    [told] = logged_here(caplog)
    assert "250 ms late" in told.getMessage()


def test_a_free_loop_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def free(clock: Clock) -> None:
        await asyncio.sleep(60)

    with caplog.at_level(logging.WARNING):
        watched(free)

    assert logged_here(caplog) == []
