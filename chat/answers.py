"""All the answers a process writes: one object owns their tasks and their ticker."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError

from accounts.tokens import Claims
from chat.asks import Ask, Watch
from chat.broadcast import Broadcast
from chat.connections import Connections
from chat.event_ids import position
from chat.events import Cursor
from chat.following import Followed, copy_of
from chat.grounded import Grounding
from chat.hops import (
    answer_of,
    find_and_mark,
    find_answer,
    find_conversation,
    is_gone,
    open_and_find_base,
    outcome_of,
    with_turn,
)
from chat.live import LiveAnswer
from chat.measures import note_end
from chat.ticker import Ticker, clean_up
from chat.titling import Titles
from chat.usage import counted, with_left
from chat.writing import Written, cut, gone, interrupted, write
from conversations.closing import close_turn
from conversations.models import Message
from conversations.turns import Turn
from conversations.writers import Held
from llmbackend.commits import Commits
from llmbackend.connected import Providers
from llmbackend.errors import LLMBackendError, NotFound, ServerRestarting
from llmbackend.threads import DatabaseThreads
from rag.indexes import Base
from rag.ingestion import LEASE, fail_abandoned
from rag.retrieval import Knowledge

logger = logging.getLogger(__name__)

HEARTBEAT = 15.0
STORE_FOR = 60.0
AFTER_CUT = 4.0
AFTER_LEASES = LEASE.total_seconds() + 1
Status = Message.Status


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, and the place in it from where it is to be read."""

    answer: LiveAnswer
    cursor: Cursor


class Answers:
    """
    Begins answers, writes them to their end whoever reads, and ends them at shutdown.

    Everything but the ticker happens on the event loop that `start` was called on.
    """

    def __init__(
        self,
        *,
        threads: DatabaseThreads,
        commits: Commits,
        providers: Providers,
        knowledge: Knowledge,
    ) -> None:
        self.writer = uuid.uuid4()
        self.draining = False
        self._threads = threads
        self._commits = commits
        self._providers = providers
        self._knowledge = knowledge
        self._live: dict[int, LiveAnswer] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._openings: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []
        # By the answer itself: what goes on with it has the same key, maybe at once.
        self._writing: dict[LiveAnswer, asyncio.Task[Any]] = {}
        self._broadcast: Broadcast | None = None
        self.connections = Connections(threads)
        self._titles = Titles(threads=threads, providers=providers)
        self._ticker = Ticker(
            writer=self.writer,
            live=lambda: list(self._live.values()),
            report=self._report,
        )

    @property
    def busy(self) -> bool:
        """Whether any answer is being opened or written."""
        return bool(self._tasks)

    async def start(self) -> None:
        """End what dead processes left open, and start the ticker and the heartbeat."""
        self._loop = asyncio.get_running_loop()
        await self._threads.run(clean_up)
        self._background = [asyncio.create_task(self.connections.watch_forever())]
        if settings.CONFIG.redis.address:
            self._broadcast = Broadcast(settings.CONFIG, writer=self.writer)
            self._background += [
                asyncio.create_task(self._broadcast.push_forever(self._live.values)),
                asyncio.create_task(self._broadcast.hear_wishes_forever()),
                asyncio.create_task(self._broadcast.listen_forever()),
            ]
        self._followed = Followed(threads=self._threads, broadcast=self._broadcast)
        self._ticker.start()
        self._loop.call_later(HEARTBEAT, self._beat)
        # What died just before this start may have leases that run on until now.
        self._loop.call_later(AFTER_LEASES, self._look_again)

    async def begin(self, *, claims: Claims, ask: Ask) -> Reading:
        """
        Commit the question and start writing its answer.

        Once this has been awaited the answer is written to its end, also when the
        caller is cancelled. Where the ask's key did so before, that answer is read
        again. Raises Unauthorized, NotFound, AnswerInProgress, UnknownModel,
        ServerRestarting and what `open_turn` raises.
        """
        if self.draining:
            raise ServerRestarting(retry_after=5)
        beginning = asyncio.create_task(self._begin(claims, ask))
        self._tasks.add(beginning)
        self._openings.add(beginning)
        beginning.add_done_callback(self._has_begun)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # Nobody else is told if it fails.
            beginning.add_done_callback(self._disown)
            beginning.add_done_callback(self._left_early)
            raise

    async def _begin(self, claims: Claims, ask: Ask) -> Reading:
        opening = partial(
            open_and_find_base, claims=claims, ask=ask, writer=self.writer
        )
        turn, base = await self._commits.run(opening, with_turn)
        if isinstance(turn, str):
            # It opens nothing, and must not wait for itself.
            self._openings -= {asyncio.current_task()}
            again = Watch(
                conversation_id=ask.conversation_id, last_event_id=turn, replay=True
            )
            return await self._again(claims, again)
        answer = answer_of(turn)
        self._live[answer.pk] = answer
        self._own(self._answer(answer, turn, self._grounding(base, ask)))
        return Reading(answer, answer.start)

    async def _again(self, claims: Claims, watch: Watch) -> Reading:
        reading = await self.watch(claims=claims, watch=watch)
        if reading is None:
            raise NotFound("What was made under this Idempotency-Key has gone.")
        return reading

    async def watch(self, *, claims: Claims, watch: Watch) -> Reading | None:
        """
        The answer to read, written here or anywhere; None when there is none to read.

        Raises Unauthorized, NotFound, and Invalid for what is no event's id.
        """
        asked = position(watch.last_event_id) if watch.last_event_id else None
        row = await self._threads.run(
            find_answer, claims=claims, watch=watch, position=asked
        )
        if row is None:
            return None
        seen = asked.cursor if asked else Cursor()
        answer = self._live.get(row.pk)
        if answer is None and row.writer_id == self.writer and self._openings:
            # Its rows are there, and it is about to be.
            await asyncio.wait(self._openings)
            answer = self._live.get(row.pk)
        if answer is None and row.is_open:
            answer = await self._followed.follow(row, seen=seen)
        elif answer is None:
            answer = copy_of(row)
        if asked is None:
            return Reading(answer, seen)
        here = answer.within(seen)
        over = answer.ending is not None and asked.ended and here == answer.cursor
        return None if over and not watch.replay else Reading(answer, here)

    @contextmanager
    def reading(self, answer: LiveAnswer) -> Iterator[None]:
        """Count a reader; the last to leave may stop the answer, if so configured."""
        answer.readers += 1
        try:
            yield
        finally:
            answer.readers -= 1
            self._left(answer)

    def _has_begun(self, beginning: asyncio.Task[Reading]) -> None:
        self._tasks.discard(beginning)
        self._openings.discard(beginning)

    def _left_early(self, beginning: asyncio.Task[Reading]) -> None:
        if not beginning.cancelled() and beginning.exception() is None:
            self._left(beginning.result().answer)

    def _left(self, answer: LiveAnswer) -> None:
        if settings.CONFIG.chat.on_disconnect == "stop" and not answer.readers:
            self._stop(answer)

    def stop(self, answer_pk: int) -> None:
        """Stop writing an answer, if it is written here; its text is kept."""
        if answer_pk in self._live:
            self._stop(self._live[answer_pk])

    def _stop(self, answer: LiveAnswer) -> None:
        writing = self._writing.get(answer)
        if writing is not None and writing.cancel():
            answer.stopping = True

    def stop_soon(self, answer_pk: int) -> None:
        """The same from any thread."""
        self._loop.call_soon_threadsafe(self.stop, answer_pk)

    async def request_stop(
        self, *, claims: Claims, conversation_id: int, message_id: int | None
    ) -> int | None:
        """
        Stop the answer of a conversation, wherever it is written; its message_id.

        None when none is being written, or another than `message_id` names. Raises
        Unauthorized and NotFound.
        """
        found = await self._threads.run(
            find_and_mark,
            claims=claims,
            conversation_id=conversation_id,
            message_id=message_id,
        )
        if found is None:
            return None
        answer_pk, number = found
        self.stop(answer_pk)
        return number

    async def check(self, *, claims: Claims, conversation_id: int) -> None:
        """Raise Unauthorized or NotFound unless it is a conversation of theirs."""
        await self._threads.run(
            find_conversation, claims=claims, conversation_id=conversation_id
        )

    def _grounding(self, base: Base | None, ask: Ask) -> Grounding | None:
        if base is None:
            return None
        return Grounding(
            base=base,
            top_k=ask.top_k,
            knowledge=self._knowledge,
            threads=self._threads,
            writer=self.writer,
        )

    def _own(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LLMBackendError):
            logger.error("A task of an answer failed", exc_info=error)

    async def _answer(
        self, answer: LiveAnswer, turn: Turn, grounding: Grounding | None
    ) -> None:
        written = await self._written(answer, turn, grounding)
        stored, unstored = False, interrupted()
        try:
            written = await counted(written, answer=answer, turn=turn)
            stored = not answer.taken and await self._store(answer, turn, written)
            if stored:
                written = await with_left(written, turn=turn, threads=self._threads)
            elif await self._is_gone(answer):
                unstored = gone()
        finally:
            # Readers are told after the commit, and told even if it failed.
            if self._live.get(answer.pk) is answer:
                del self._live[answer.pk]
            told = written if stored else unstored
            answer.end(
                status=told.status,
                finish_reason=told.finish_reason,
                usage=told.usage,
                error=told.error,
            )
            if self._broadcast is not None:
                self._broadcast.note_end(answer)
        if stored:
            note_end(answer, turn)
        if stored and written.status == Status.COMPLETE:
            self._titles.ask_for(turn, answer=answer.text.whole())

    async def _written(
        self, answer: LiveAnswer, turn: Turn, grounding: Grounding | None
    ) -> Written:
        """Write it, while this task can be cancelled, and see how that ended."""
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._writing[answer] = task
        try:
            return await write(
                answer, turn=turn, grounding=grounding, providers=self._providers
            )
        except asyncio.CancelledError:
            task.uncancel()
            return cut(answer)
        finally:
            del self._writing[answer]

    async def _store(self, answer: LiveAnswer, turn: Turn, written: Written) -> bool:
        """Commit the end; while the database is away, hold it in memory a minute."""
        closing = partial(
            close_turn,
            turn=turn,
            writer=self.writer,
            outcome=outcome_of(answer, written),
        )
        give_up_at = time.monotonic() + STORE_FOR
        while True:
            try:
                return await self._commits.run(closing)
            except (OperationalError, InterfaceError) as exc:
                if time.monotonic() > give_up_at:
                    logger.exception(
                        "The end of message %s of conversation %s was not stored",
                        turn.message_id,
                        turn.conversation_id,
                    )
                    return False
                logger.warning("An answer's end waits (%s)", type(exc).__name__)
                await asyncio.sleep(1)

    async def _is_gone(self, answer: LiveAnswer) -> bool:
        with suppress(OperationalError, InterfaceError):
            return await self._threads.run(is_gone, answer.pk)
        return False

    def _report(self, live: Iterable[LiveAnswer], held: Held) -> None:
        """From the ticker's thread: what is no longer ours, what is to be stopped."""
        taken = [answer for answer in live if answer.pk not in held.open]
        to_stop = [answer for answer in live if answer.pk in held.to_stop]
        self._loop.call_soon_threadsafe(self._release, taken, to_stop)

    def _release(self, taken: list[LiveAnswer], to_stop: list[LiveAnswer]) -> None:
        for answer in to_stop:
            self._stop(answer)
        for answer in taken:
            # One that is just being closed has no writing task any more.
            writing = self._writing.get(answer)
            if writing is not None and writing.cancel():
                answer.taken = True

    def _look_again(self) -> None:
        self._own(self._threads.run(fail_abandoned))

    def _beat(self) -> None:
        for answer in [*self._live.values(), *self._followed.copies()]:
            answer.beat()
        self._loop.call_later(HEARTBEAT, self._beat)

    async def drain(self, *, grace: float) -> None:
        """Take no new answers; let running ones end, and cut what outlasts `grace`."""
        self.draining = True
        await self._titles.aclose()
        await self._until_idle(grace)
        for writing in self._writing.values():
            writing.cancel()
        await self._until_idle(AFTER_CUT)
        self._followed.lose_all()
        await asyncio.to_thread(self._ticker.stop)

    async def aclose(self) -> None:
        """End what runs in the background; after `drain`."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._titles.aclose()
        if self._broadcast is not None:
            await self._broadcast.aclose()

    async def _until_idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._tasks and (left := until - time.monotonic()) > 0:
            await asyncio.wait(
                self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
