"""An answer while it is written: a text that grows, and those who wait for more."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from chat.completion import Usage
from chat.events import Cursor, Ending, Growth, Opening
from chat.grounding import unknown_markers
from llmbackend.errors import LLMBackendError

PIECES_BEFORE_JOIN = 1024
# A NamedTuple's own __new__ is a function in Python, and these are made all the time.
_new = tuple.__new__


class GrowingText:
    """
    A text that grows by pieces, cheap to read from any offset in code points.

    Written on the event loop only; `whole` may be read from any thread.
    """

    __slots__ = ("_pieces", "_starts", "length")

    def __init__(self, text: str = "") -> None:
        self._pieces: list[str] = []
        self._starts: list[int] = []
        self.length = 0
        if text:
            self.append(text)

    def append(self, piece: str) -> None:
        if len(self._pieces) >= PIECES_BEFORE_JOIN:
            self._pieces, self._starts = ["".join(self._pieces)], [0]
        self._pieces.append(piece)
        self._starts.append(self.length)
        self.length += len(piece)

    def since(self, offset: int) -> str:
        """All text from `offset` on; empty when there is none."""
        if offset >= self.length:
            return ""
        if offset == self._starts[-1]:
            return self._pieces[-1]
        first = bisect_right(self._starts, offset) - 1
        tail = self._pieces[first][offset - self._starts[first] :]
        return "".join((tail, *self._pieces[first + 1 :]))

    def whole(self) -> str:
        return "".join(self._pieces)


class Follower(Protocol):
    """A reader that is called in the moment in which something happens."""

    def grown(self) -> None:
        """There are more words."""

    def look(self) -> None:
        """There may be more, or the end."""

    def beat(self) -> None:
        """There was nothing for a while."""


class LiveAnswer:
    """
    One answer: its writer grows it and ends it, any number of readers follow.

    A reader holds a cursor and takes everything since it. `before` is where one stands
    who lacks the `latest` words alone. `sent` is what its model was sent; None as long
    as no model was asked.
    """

    __slots__ = (
        "__weakref__",
        "_followers",
        "_frames",
        "_latest",
        "_waiting",
        "before",
        "began_at",
        "cursor",
        "ending",
        "error",
        "first_token_at",
        "lost",
        "opening",
        "pk",
        "readers",
        "reasoning",
        "sent",
        "start",
        "stopping",
        "taken",
        "text",
    )

    def __init__(
        self,
        *,
        pk: int,
        opening: Opening,
        text: str = "",
        reasoning: str = "",
        first_token_at: datetime | None = None,
    ) -> None:
        """`pk` is the answer's row; `text` and `reasoning` are what it says already."""
        self.pk = pk
        self.opening = opening
        self.text = GrowingText(text)
        self.reasoning = GrowingText(reasoning)
        # Where a reader stands that has everything.
        self.cursor = self.start = Cursor(self.reasoning.length, self.text.length)
        self.before = self.cursor
        self._latest = Growth(opening.message_id, "", "", self.cursor)
        self.began_at = datetime.now(UTC)
        self.first_token_at = first_token_at
        self.ending: Ending | None = None
        self.error: LLMBackendError | None = None
        self.taken = False
        self.stopping = False
        self.lost = False
        self.readers = 0
        self.sent: Sequence[Mapping[str, str]] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._followers: tuple[Follower, ...] = ()
        self._frames: dict[object, tuple[Any, Cursor]] = {}

    def within(self, cursor: Cursor) -> Cursor:
        """
        `cursor`, or the end where it lies beyond it.

        A reader may have seen more than a crash left in the database.
        """
        return Cursor(
            min(cursor.reasoning, self.reasoning.length),
            min(cursor.text, self.text.length),
        )

    def grow(self, *, text: str, reasoning: str) -> None:
        if self.first_token_at is None:
            self.first_token_at = datetime.now(UTC)
        if reasoning:
            self.reasoning.append(reasoning)
        if text:
            self.text.append(text)
        self.before = self.cursor
        self.cursor = _new(Cursor, (self.reasoning.length, self.text.length))
        added = (self.opening.message_id, reasoning, text, self.cursor)
        self._latest = _new(Growth, added)
        if self._frames or self._waiting:
            self._let_go()
        for follower in self._followers:
            follower.grown()

    def rest_on(self, sources: Sequence[dict[str, Any]]) -> None:
        """Name the sources; before the first text."""
        self.opening = replace(self.opening, sources=sources)
        self.wake()

    def end(
        self,
        *,
        status: str,
        finish_reason: str = "",
        usage: Usage | None = None,
        error: LLMBackendError | None = None,
    ) -> None:
        """Tell every reader how it ended."""
        self.error = error
        text, sources = self.text.whole(), self.opening.sources
        unknown = [] if sources is None else unknown_markers(text, sources=len(sources))
        self.ending = Ending(
            message_id=self.opening.message_id,
            status=status,
            finish_reason=finish_reason,
            usage=usage.as_counts() if usage else None,
            error=str(error) if error else "",
            code=error.code if error else "",
            retryable=error.retryable if error else False,
            cursor=self.cursor,
            full_text=text,
            unknown_sources=unknown,
        )
        self.wake()

    def lose(self) -> None:
        """Send every reader away without an end: it is told by another process."""
        self.lost = True
        self.wake()

    def since(self, cursor: Cursor) -> Growth | None:
        """What `cursor` has not seen; None when it has seen everything."""
        return None if cursor == self.cursor else self._growth(cursor)

    def _growth(self, cursor: Cursor) -> Growth:
        return Growth(
            self.opening.message_id,
            self.reasoning.since(cursor.reasoning) if self.reasoning.length else "",
            self.text.since(cursor.text),
            self.cursor,
        )

    def frame(
        self, cursor: Cursor, *, encode: Callable[[Growth], Any]
    ) -> tuple[Any, Cursor] | None:
        """
        What `cursor` has not seen, encoded, and where its reader then stands.

        Encoded once for all readers that stand at the same place.
        """
        if cursor == self.cursor:
            return None
        key = (cursor, encode)
        found = self._frames.get(key)
        if found is None:
            growth = self._growth(cursor)
            found = self._frames[key] = encode(growth), growth.cursor
        return found

    def latest(self, encode: Callable[[Growth], Any]) -> Any:
        """What came last, encoded once for all readers that lack no more."""
        if len(self._followers) == 1:  # There is nobody to keep it for.
            return encode(self._latest)
        found = self._frames.get(encode)
        if found is None:
            found = self._frames[encode] = encode(self._latest)
        return found

    def wake(self) -> None:
        """Have every reader look again."""
        self._let_go()
        for follower in self._followers:
            follower.look()

    def _let_go(self) -> None:
        """Forget what was encoded, and have those go on who wait."""
        self._frames.clear()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def beat(self) -> None:
        """Tell followers that nothing has happened, and nothing is wrong."""
        for follower in self._followers:
            follower.beat()

    @contextmanager
    def followed(self, follower: Follower) -> Iterator[None]:
        """Have `follower` look whenever there may be more."""
        self._followers += (follower,)
        try:
            yield
        finally:
            others = [each for each in self._followers if each is not follower]
            self._followers = tuple(others)

    async def changed(self) -> None:
        """Wait until the answer grows or ends."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def begun(self, cursor: Cursor) -> None:
        """Wait until there is more than `cursor` has seen, or the end."""
        while self.cursor == cursor and self.ending is None and not self.lost:
            await self.changed()

    async def reached(self, cursor: Cursor) -> None:
        """Wait until there is all that `cursor` has seen, or the end."""
        while self.within(cursor) != cursor and self.ending is None and not self.lost:
            await self.changed()
