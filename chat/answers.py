"""All the answers a process writes: one object owns their tasks and their ticker."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import InterfaceError, OperationalError

from accounts.tokens import Claims, user_for
from chat.events import Ending, Opening
from chat.grounded import Grounding
from chat.grounding import unknown_markers
from chat.live import LiveAnswer
from chat.ticker import Ticker, clean_up
from chat.writing import Written, write
from conversations.models import Message
from conversations.turns import Outcome, Turn, close_turn, open_turn
from conversations.writers import Held
from llmbackend.chat_models import Providers
from llmbackend.errors import Interrupted, LLMBackendError, ServerRestarting
from llmbackend.threads import DatabaseThreads
from rag.indexes import Base
from rag.ingestion import LEASE, fail_abandoned
from rag.retrieval import Knowledge, base_of

logger = logging.getLogger(__name__)

HEARTBEAT = 15.0
STORE_FOR = 60.0
AFTER_CUT = 4.0
AFTER_LEASES = LEASE.total_seconds() + 1
Status = Message.Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question to a conversation, to be answered from a knowledge base if named."""

    conversation_id: int
    message: str
    knowledge_base_id: uuid.UUID | None = None
    top_k: int = 5


class Answers:
    """
    Begins answers, writes them to their end whoever reads, and ends them at shutdown.

    Everything but the ticker happens on the event loop that `start` was called on.
    """

    def __init__(
        self, *, threads: DatabaseThreads, providers: Providers, knowledge: Knowledge
    ) -> None:
        self.writer = uuid.uuid4()
        self.draining = False
        self._threads = threads
        self._providers = providers
        self._knowledge = knowledge
        self._live: dict[int, LiveAnswer] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writing: dict[int, asyncio.Task[Written]] = {}
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
        self._ticker.start()
        self._loop.call_later(HEARTBEAT, self._beat)
        # What died just before this start may have leases that run on until now.
        self._loop.call_later(AFTER_LEASES, self._look_again)

    async def begin(self, *, claims: Claims, ask: Ask) -> LiveAnswer:
        """
        Commit the question and start writing its answer.

        Once this has been awaited the answer is written to its end, also when the
        caller is cancelled. Raises Unauthorized, NotFound, AnswerInProgress,
        UnknownModel, ServerRestarting.
        """
        if self.draining:
            raise ServerRestarting(retry_after=5)
        return await asyncio.shield(self._own(self._begin(claims, ask)))

    async def _begin(self, claims: Claims, ask: Ask) -> LiveAnswer:
        turn, base = await self._threads.run(
            open_and_find_base, claims=claims, ask=ask, writer=self.writer
        )
        answer = LiveAnswer(pk=turn.answer_pk, opening=_opening(turn))
        self._live[answer.pk] = answer
        self._own(self._answer(answer, turn, self._grounding(base, ask)))
        return answer

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
        writing = asyncio.create_task(
            write(answer, turn=turn, grounding=grounding, providers=self._providers)
        )
        self._writing[answer.pk] = writing
        try:
            await asyncio.wait({writing})
        finally:
            del self._writing[answer.pk]
        written = _interrupted() if writing.cancelled() else writing.result()
        stored = False
        try:
            stored = not answer.taken and await self._store(answer, turn, written)
        finally:
            # Readers are told after the commit, and told even if it failed.
            del self._live[answer.pk]
            answer.end(_ending(answer, written if stored else _interrupted()))

    async def _store(self, answer: LiveAnswer, turn: Turn, written: Written) -> bool:
        """Commit the end; while the database is away, hold it in memory a minute."""
        outcome = _outcome(answer, written)
        give_up_at = time.monotonic() + STORE_FOR
        while True:
            try:
                return await self._threads.run(
                    close_turn, turn=turn, writer=self.writer, outcome=outcome
                )
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

    def _report(self, live: Iterable[LiveAnswer], held: Held) -> None:
        """From the ticker's thread: end the writing of what is no longer ours."""
        taken = [answer for answer in live if answer.pk not in held.open]
        self._loop.call_soon_threadsafe(self._release, taken)

    def _release(self, taken: list[LiveAnswer]) -> None:
        for answer in taken:
            # One that is just being closed has no writing task any more.
            writing = self._writing.get(answer.pk)
            if writing is not None and not writing.done():
                answer.taken = True
                writing.cancel()

    def _look_again(self) -> None:
        self._own(self._threads.run(fail_abandoned))

    def _beat(self) -> None:
        for answer in self._live.values():
            answer.wake()
        self._loop.call_later(HEARTBEAT, self._beat)

    async def drain(self, *, grace: float) -> None:
        """Take no new answers; let running ones end, and cut what outlasts `grace`."""
        self.draining = True
        await self._until_idle(grace)
        for writing in self._writing.values():
            writing.cancel()
        await self._until_idle(AFTER_CUT)
        await asyncio.to_thread(self._ticker.stop)

    async def _until_idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._tasks and (left := until - time.monotonic()) > 0:
            await asyncio.wait(
                self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )


def open_and_find_base(
    *, claims: Claims, ask: Ask, writer: uuid.UUID
) -> tuple[Turn, Base | None]:
    """The one hop before an answer: who asks, of which base, and the two rows."""
    user = user_for(claims)
    base = None
    if ask.knowledge_base_id is not None:
        base = base_of(user=user, knowledge_base_id=ask.knowledge_base_id)
    turn = open_turn(
        user=user,
        conversation_id=ask.conversation_id,
        question=ask.message,
        writer=writer,
    )
    return turn, base


def _opening(turn: Turn) -> Opening:
    return Opening(
        conversation_id=turn.conversation_id,
        question_id=turn.question_id,
        message_id=turn.message_id,
        model=turn.model,
        provider=turn.provider,
    )


def _interrupted() -> Written:
    return Written(status=Status.INTERRUPTED, error=Interrupted())


def _outcome(answer: LiveAnswer, written: Written) -> Outcome:
    return Outcome(
        status=written.status,
        finish_reason=written.finish_reason,
        error_code=written.error.code if written.error else "",
        text=answer.text.whole(),
        reasoning=answer.reasoning.whole(),
        prompt_tokens=written.usage.prompt_tokens if written.usage else None,
        completion_tokens=written.usage.completion_tokens if written.usage else None,
        first_token_at=answer.first_token_at,
    )


def _ending(answer: LiveAnswer, written: Written) -> Ending:
    error: LLMBackendError | None = written.error
    answer.error = error
    text, sources = answer.text.whole(), answer.opening.sources
    unknown = [] if sources is None else unknown_markers(text, sources=len(sources))
    return Ending(
        message_id=answer.opening.message_id,
        status=written.status,
        finish_reason=written.finish_reason,
        usage={
            "prompt_tokens": written.usage.prompt_tokens,
            "completion_tokens": written.usage.completion_tokens,
            "total_tokens": written.usage.prompt_tokens
            + written.usage.completion_tokens,
        }
        if written.usage
        else None,
        error=str(error) if error else "",
        code=error.code if error else "",
        retryable=error.retryable if error else False,
        cursor=answer.cursor,
        full_text=text,
        unknown_sources=unknown,
    )
