"""Reading along with answers that another process writes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from functools import partial

from django.db import DatabaseError, InterfaceError

from chat.broadcast import Broadcast, Piece, key_of
from chat.completion import Usage
from chat.events import Cursor, Opening
from chat.live import LiveAnswer
from chat.writing import gone
from conversations.models import Message
from conversations.stored import StoredAnswer, stored_since
from llmbackend.errors import LLMBackendError, error_of
from llmbackend.threads import DatabaseThreads

logger = logging.getLogger(__name__)

# Seconds between two looks into the database: without Redis, and beside it.
LOOK_EVERY = 0.25
LOOK_EVERY_BESIDE_REDIS = 1.0
# Pieces to ask for at first: more than the database can be behind.
LATEST = 32
# Seconds that a copy without readers is kept up.
UNREAD = 5.0
# Seconds that a checkpoint, and a look at it, may take.
CATCH_UP = 3.0
Status = Message.Status


class Followed:
    """
    The answers this process follows: one copy and one task each, however many read.

    A copy grows and ends like an answer that is written here.
    """

    def __init__(
        self, *, threads: DatabaseThreads, broadcast: Broadcast | None
    ) -> None:
        self._threads = threads
        self._broadcast = broadcast
        self._copies: dict[str, LiveAnswer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def copies(self) -> list[LiveAnswer]:
        return list(self._copies.values())

    async def follow(self, row: StoredAnswer, *, seen: Cursor) -> LiveAnswer:
        """
        The copy of an answer that is being written elsewhere.

        What is stored may be a second behind what its reader has `seen` elsewhere: that
        is waited for, or else it would be told again.
        """
        copy = self._copy(row)
        copy.readers += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP):
                    await copy.reached(seen)
        finally:
            copy.readers -= 1
        return copy

    def _copy(self, row: StoredAnswer) -> LiveAnswer:
        key = key_of(row.pk, row.writer_id)
        copy = self._copies.get(key)
        if copy is None:
            copy = self._copies[key] = copy_of(row)
            task = asyncio.create_task(self._keep_up(copy, key, row.writer_id))
            self._tasks.add(task)
            task.add_done_callback(self._done)
        return copy

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Following an answer failed", exc_info=task.exception())

    def lose_all(self) -> None:
        """This process ends: send the readers to another."""
        for copy in self.copies():
            copy.lose()

    async def _keep_up(
        self, copy: LiveAnswer, key: str, writer: uuid.UUID | None
    ) -> None:
        """Until its end, until another writes it, or until nobody reads it any more."""
        following = _Following(copy, writer, self._threads)
        try:
            if self._broadcast is None:
                await following.database()
            else:
                await following.redis(self._broadcast, key)
        finally:
            del self._copies[key]
            if copy.ending is None:
                copy.lose()


class _Following:
    """The growth of one copy."""

    def __init__(
        self, copy: LiveAnswer, writer: uuid.UUID | None, threads: DatabaseThreads
    ) -> None:
        self._copy = copy
        self._writer = writer
        self._threads = threads
        self._read_at = asyncio.get_running_loop().time()

    async def database(self) -> None:
        """Look into the database until the end."""
        while True:
            if await self.looked():
                return
            await asyncio.sleep(LOOK_EVERY)

    async def redis(self, broadcast: Broadcast, key: str) -> None:
        """Take pieces as they come, and look into the database once a second."""
        loop = asyncio.get_running_loop()
        known = -LATEST
        with broadcast.listening(key) as nudges:
            while not await self.looked():
                if nudges.ended:
                    await asyncio.sleep(LOOK_EVERY)
                    continue
                away = broadcast.is_away()
                until = loop.time() + (LOOK_EVERY if away else LOOK_EVERY_BESIDE_REDIS)
                # At first and once a second unasked: a nudge may have been missed.
                known = await self._taken(broadcast, known, wish=True)
                while not nudges.ended and await nudges.came(until=until):
                    known = await self._taken(broadcast, known)

    async def _taken(
        self, broadcast: Broadcast, known: int, *, wish: bool = False
    ) -> int:
        """
        Take the pieces after the first `known`; how many are known now.

        A negative `known` asks for so many of the last.
        """
        ask = partial(broadcast.pieces, self._copy.pk, self._writer)
        pieces, length = await ask(after=known, wish=wish)
        if length < known:  # Redis was emptied meanwhile.
            pieces, length = await ask(after=0, wish=False)
        known = length - len(pieces)
        for piece in pieces:
            if not applied(self._copy, piece):
                break  # The database fills the gap.
            known += 1
        return known

    async def looked(self) -> bool:
        """Take what the database has; whether there is no more to be had here."""
        copy, now = self._copy, asyncio.get_running_loop().time()
        if copy.readers:
            self._read_at = now
        if copy.lost or now - self._read_at > UNREAD:
            return True
        try:
            row = await self._threads.run(
                stored_since,
                answer_pk=copy.pk,
                text=copy.text.length,
                reasoning=copy.reasoning.length,
            )
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("An answer cannot be followed now (%s)", type(exc).__name__)
            return False
        if row is None:
            told = gone()
            copy.end(status=told.status, error=told.error)
            return True
        if row.is_open and row.writer_id != self._writer:
            # Its text may not be what a dead writer told: let the readers come again.
            return True
        if row.sources and copy.opening.sources is None:
            copy.rest_on(row.sources)
        take(copy, row)
        if not row.is_open:
            end(copy, row)
        return not row.is_open


def copy_of(row: StoredAnswer) -> LiveAnswer:
    """An answer as its row has it, with its end if it has one."""
    opening = Opening(
        conversation_id=row.conversation_id,
        question_id=row.question_id,
        message_id=row.message_id,
        model=row.model,
        provider=row.provider,
        sources=row.sources or None,
    )
    copy = LiveAnswer(
        pk=row.pk, opening=opening, text=row.text, reasoning=row.reasoning
    )
    if not row.is_open:
        end(copy, row)
    return copy


def take(copy: LiveAnswer, row: StoredAnswer) -> None:
    """Grow by what was read from the copy's own place on."""
    if row.text or row.reasoning:
        copy.grow(text=row.text, reasoning=row.reasoning)


def end(copy: LiveAnswer, row: StoredAnswer) -> None:
    usage = None
    if row.prompt_tokens is not None and row.completion_tokens is not None:
        usage = Usage(
            row.prompt_tokens, row.completion_tokens, row.tokens_estimated, row.left
        )
    copy.end(
        status=row.status,
        finish_reason=row.finish_reason,
        usage=usage,
        error=error_of_row(row),
    )


def error_of_row(row: StoredAnswer) -> LLMBackendError | None:
    if row.status in {Status.COMPLETE, Status.STOPPED}:
        return None
    return error_of(row.error_code)


def applied(copy: LiveAnswer, piece: Piece) -> bool:
    """Grow `copy` by what of `piece` it lacks; False when there is a gap before it."""
    here = copy.cursor
    if piece.start.reasoning > here.reasoning or piece.start.text > here.text:
        return False
    text = piece.text[here.text - piece.start.text :]
    reasoning = piece.reasoning[here.reasoning - piece.start.reasoning :]
    if text or reasoning:
        copy.grow(text=text, reasoning=reasoning)
    return True
