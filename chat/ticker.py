"""The process's one ticker: heartbeat and checkpoints in one transaction a tick."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from accounts import tallies
from accounts.idempotency import forget_old_keys
from chat.live import LiveAnswer
from conversations.hours import last_hours
from conversations.writers import (
    Growth,
    Held,
    forget_dead_writers,
    give_up,
    interrupt_orphans,
    tick,
)
from rag.ingestion import fail_abandoned

logger = logging.getLogger(__name__)

# A crash costs at most a second of an answer. An answer is stored at every second tick,
# and what comes on top is three times as long as the database takes for a tick.
INTERVAL = 0.4
CHECKPOINT_EVERY = 0.6
IDLE_INTERVAL = 2.0
TIDY_EVERY = 3600.0
# Seconds that the rows of an answer may be there before its writing begins.
LOST_AFTER = 5.0
CHARACTERS_A_TICK = 4 << 20


class Ticker:
    """
    A thread that stores what grew and tells `report` which answers are still ours.

    `live` is asked for the answers being written now; both it and `report` are
    called on the ticker's thread. A process that writes nothing writes no heartbeat:
    only its answers would be taken over, and the transaction that opens one beats.
    """

    def __init__(
        self,
        *,
        writer: uuid.UUID,
        live: Callable[[], list[LiveAnswer]],
        report: Callable[[Iterable[LiveAnswer], Held], None],
    ) -> None:
        self._writer = writer
        self._live = live
        self._report = report
        self._stored: dict[int, tuple[float, int]] = {}
        self._missed: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when its last transaction has."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        swept, tidied = 0.0, time.monotonic()
        while not self._stopping.wait(INTERVAL):
            live = self._live()
            if not live and time.monotonic() - swept < IDLE_INTERVAL:
                continue
            swept = time.monotonic()
            try:
                close_old_connections()
                self._tick(live) if live else self._sweep()
                if swept - tidied > TIDY_EVERY:
                    tidied = swept
                    forget_old_keys()
                    tallies.forget_ended()
                    last_hours()
            except (DatabaseError, InterfaceError) as exc:
                # The next tick tries again; the texts are in memory meanwhile.
                logger.warning("A checkpoint failed (%s)", type(exc).__name__)
                connection.close()
        connection.close()

    def _sweep(self) -> None:
        self._stored.clear()
        interrupt_orphans()

    def _tick(self, live: list[LiveAnswer]) -> None:
        growths = self._grown(live)
        held = tick(writer=self._writer, grown=growths)
        now = time.monotonic()
        for growth in growths:
            size = len(growth.text) + len(growth.reasoning)
            self._stored[growth.answer_pk] = (now, size)
        self._report(live, held)
        self._give_up_lost(held.open)

    def _give_up_lost(self, held: frozenset[int]) -> None:
        """
        Let go of answers that nobody here writes, though their rows say so.

        Their end could not be stored, or their writing not be begun, while the database
        was away. They would be open, and keep what is set aside for them, as long as
        this process has others to write.
        """
        now = time.monotonic()
        lacking = held - {answer.pk for answer in self._live()}
        self._missed = {pk: self._missed.get(pk, now) for pk in lacking}
        lost = [pk for pk, since in self._missed.items() if now - since > LOST_AFTER]
        if lost:
            give_up(self._writer, lost)

    def _grown(self, live: list[LiveAnswer]) -> list[Growth]:
        """What to store now: the longest unstored first, within a tick's limit."""
        now = time.monotonic()
        left = CHARACTERS_A_TICK
        growths: list[Growth] = []
        for answer in sorted(live, key=self._stored_at):
            size = answer.text.length + answer.reasoning.length
            stored_at, stored_size = self._stored.get(answer.pk, (0.0, 0))
            if size == stored_size or now - stored_at < CHECKPOINT_EVERY:
                continue
            if growths and size > left:
                break
            left -= size
            growths.append(
                Growth(
                    answer_pk=answer.pk,
                    text=answer.text.whole(),
                    reasoning=answer.reasoning.whole(),
                )
            )
        return growths

    def _stored_at(self, answer: LiveAnswer) -> float:
        return self._stored.get(answer.pk, (0.0, 0))[0]


def clean_up() -> None:
    """What a start does for those that ended badly."""
    interrupt_orphans()
    forget_dead_writers()
    fail_abandoned()
    forget_old_keys()
    tallies.forget_ended()
