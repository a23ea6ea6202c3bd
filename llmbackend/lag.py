"""How late the event loop is, told when somebody would feel it."""

from __future__ import annotations

import asyncio
import logging

from llmbackend import metrics

logger = logging.getLogger(__name__)

EVERY = 0.25
WORTH_TELLING = 0.2
TELL_EVERY = 10.0


class LoopLag:
    """
    Measures how much later than asked for the loop runs a timer.

    `worst` is the longest lateness since it was last told or taken, in seconds.
    """

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch_forever(self) -> None:
        loop = asyncio.get_running_loop()
        told_at = loop.time() - TELL_EVERY
        while True:
            due = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            now = loop.time()
            self.worst = max(self.worst, now - due)
            metrics.loop_was_late(now - due)
            if self.worst >= WORTH_TELLING and now - told_at >= TELL_EVERY:
                logger.warning(
                    "The event loop was %.0f ms late: something computes on it, or the "
                    "machine is overloaded",
                    self.worst * 1000,
                )
                told_at, self.worst = now, 0.0
