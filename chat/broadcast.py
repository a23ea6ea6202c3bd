"""
The text of live answers in Redis, for the processes that follow them without writing.

Who follows an answer wishes for it on its writer's channel. What grew of what is wished
for is appended ten times a second, all answers in one pipeline, and a message on the
answer's channel says that there is more. Redis only makes it quick: a reader that finds
a gap, or nothing, has the database.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chat.events import Cursor
from chat.live import LiveAnswer
from llmbackend.cache import breaker, failures
from llmbackend.config import Config

PUSH_EVERY = 0.1
# Seconds that a wish holds; who follows repeats it every second.
WISHED_FOR = 4.0
TIMEOUT = 1.0
KEPT_AFTER_END = 600
# So that a process that dies leaves nothing for ever.
KEPT_WHILE_LIVE = 3600
LISTEN = 0.2


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer grew by; it begins at `start`."""

    start: Cursor
    reasoning: str
    text: str

    def to_json(self) -> str:
        start = [self.start.reasoning, self.start.text]
        return json.dumps([*start, self.reasoning, self.text], ensure_ascii=False)

    @property
    def end(self) -> Cursor:
        return Cursor(
            self.start.reasoning + len(self.reasoning), self.start.text + len(self.text)
        )

    @classmethod
    def from_json(cls, row: bytes) -> Piece:
        reasoning_from, text_from, reasoning, text = json.loads(row)
        return cls(Cursor(reasoning_from, text_from), reasoning, text)


class Nudges:
    """What a follower of one answer waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.ended = False

    def set(self, *, ended: bool) -> None:
        self.ended = self.ended or ended
        self._event.set()

    async def came(self, *, until: float) -> bool:
        """Wait for the next; False when the loop's time reached `until` first."""
        try:
            async with asyncio.timeout_at(until):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Broadcast:
    """A process's side of it, both ways; belongs to one event loop."""

    def __init__(self, config: Config, *, writer: uuid.UUID) -> None:
        """`writer` is this process."""
        # The client is 6 MB: where there is no Redis, nobody comes here.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as RedisConnectionError

        self._writer = writer
        self._redis = Redis.from_url(
            f"redis://{config.redis.address}/{config.redis.db}",
            password=config.redis.password or None,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            # Idle connections outlive a restart of Redis, and fail when they are used.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._pushed: dict[int, Cursor] = {}
        self._ended: list[LiveAnswer] = []
        # Until when, by the loop's time, somebody follows an answer elsewhere.
        self._wished: dict[int, float] = {}
        self._listeners: dict[str, set[Nudges]] = {}
        self._wanted = asyncio.Event()

    def note_end(self, answer: LiveAnswer) -> None:
        """The end of `answer` is committed: tell those who follow it."""
        self._ended.append(answer)

    async def push_forever(self, live: Callable[[], Iterable[LiveAnswer]]) -> None:
        """Push what grew of the answers that `live` gives, and what ended."""
        while True:
            await asyncio.sleep(PUSH_EVERY)
            ended, self._ended = self._ended, []
            self._forget_old_wishes()
            if not self._wished:
                continue
            try:
                await self._push(
                    [answer for answer in live() if answer.pk in self._wished],
                    [answer for answer in ended if answer.pk in self._wished],
                )
            except failures() as exc:
                breaker.trip(exc)
            for answer in ended:
                self._wished.pop(answer.pk, None)
                self._pushed.pop(answer.pk, None)

    def _forget_old_wishes(self) -> None:
        now = asyncio.get_running_loop().time()
        for pk in [pk for pk, until in self._wished.items() if until < now]:
            del self._wished[pk]
            self._pushed.pop(pk, None)

    async def hear_wishes_forever(self) -> None:
        """Learn which of this process's answers are followed elsewhere."""
        while True:
            if self.is_away():
                await asyncio.sleep(TIMEOUT)
                continue
            try:
                await self._hear_wishes()
            except failures() as exc:
                breaker.trip(exc)

    async def _hear_wishes(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(wishes_of(self._writer))
            while True:
                message = await pubsub.get_message(timeout=LISTEN)
                if message is not None:
                    self._wished[int(message["data"])] = loop.time() + WISHED_FOR

    async def _push(
        self, live: Sequence[LiveAnswer], ended: Sequence[LiveAnswer]
    ) -> None:
        """One pipeline with all that grew, one message for each answer that did."""
        if self.is_away():
            return
        grown = [(answer, self._new(answer)) for answer in (*live, *ended)]
        pieces = [(answer.pk, piece) for answer, piece in grown if piece is not None]
        over = {answer.pk for answer in ended}
        if not pieces and not over:
            return
        pipe = self._redis.pipeline(transaction=False)
        for pk, piece in pieces:
            pipe.rpush(self._key(pk), piece.to_json())
            pipe.expire(self._key(pk), KEPT_WHILE_LIVE)
        for pk in over:
            pipe.expire(self._key(pk), KEPT_AFTER_END)
        for pk in over.union(pk for pk, _ in pieces):
            pipe.publish(self._key(pk), "end" if pk in over else "more")
        await pipe.execute()
        self._pushed.update({pk: piece.end for pk, piece in pieces})

    def _new(self, answer: LiveAnswer) -> Piece | None:
        start = self._pushed.get(answer.pk, answer.start)
        growth = answer.since(start)
        if growth is None:
            return None
        return Piece(start, growth.reasoning, growth.text)

    def is_away(self) -> bool:
        """Whether Redis failed just now, and is left alone."""
        return breaker.resting()

    def _key(self, answer_pk: int) -> str:
        return key_of(answer_pk, self._writer)

    async def pieces(
        self, answer_pk: int, writer: uuid.UUID | None, *, after: int, wish: bool
    ) -> tuple[list[Piece], int]:
        """
        The pieces that follow the first `after`, and how many there are in all.

        A negative `after` asks for so many of the last. With `wish` the writer is told
        that they are. When Redis cannot be asked: no pieces, and `after`.
        """
        if self.is_away():
            return [], after
        try:
            pipe = self._redis.pipeline(transaction=False)
            if wish:
                pipe.publish(wishes_of(writer), answer_pk)
            key = key_of(answer_pk, writer)
            pipe.llen(key)
            pipe.lrange(key, after, -1)
            *_, length, rows = await pipe.execute()
        except failures() as exc:
            breaker.trip(exc)
            return [], after
        return [Piece.from_json(row) for row in rows], length

    @contextmanager
    def listening(self, key: str) -> Iterator[Nudges]:
        """Nudges whenever there is more under `key`, and at its end."""
        nudges = Nudges()
        self._listeners.setdefault(key, set()).add(nudges)
        self._wanted.set()
        try:
            yield nudges
        finally:
            self._listeners[key].discard(nudges)
            if not self._listeners[key]:
                del self._listeners[key]

    async def listen_forever(self) -> None:
        """Hear of what other processes push, while anybody follows it."""
        while True:
            await self._wanted.wait()
            try:
                await self._listen()
            except failures() as exc:
                breaker.trip(exc)
                await asyncio.sleep(TIMEOUT)

    async def _listen(self) -> None:
        heard: set[str] = set()
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            while self._listeners:
                wanted = set(self._listeners)
                if wanted - heard:
                    await pubsub.subscribe(*(wanted - heard))
                if heard - wanted:
                    await pubsub.unsubscribe(*(heard - wanted))
                heard = wanted
                message = await pubsub.get_message(timeout=LISTEN)
                if message is not None:
                    ended = message["data"] == b"end"
                    for nudges in self._listeners.get(message["channel"].decode(), ()):
                        nudges.set(ended=ended)
        # Somebody may have come while the connection was being closed.
        if not self._listeners:
            self._wanted.clear()

    async def aclose(self) -> None:
        await self._redis.aclose()


def wishes_of(writer: uuid.UUID | None) -> str:
    """The channel on which a writer hears which of its answers are followed."""
    return f"llmbackend:wishes:{writer}"


def key_of(answer_pk: int, writer: uuid.UUID | None) -> str:
    """
    Of a list of pieces, and of the channel that tells of them.

    By writer, since what a dead one pushed last may not be what is gone on from.
    """
    return f"llmbackend:live:{answer_pk}:{writer}"
