"""An answer while it is written: a text that grows, and those who wait for more."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from chat.events import Cursor, Ending, Growth, Opening
from llmbackend.errors import LLMBackendError

PIECES_BEFORE_JOIN = 1024


class GrowingText:
    """
    A text that grows by pieces, cheap to read from any offset in code points.

    Written on the event loop only; `whole` may be read from any thread.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._starts: list[int] = []
        self.length = 0

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
        first = bisect_right(self._starts, offset) - 1
        tail = self._pieces[first][offset - self._starts[first] :]
        return "".join((tail, *self._pieces[first + 1 :]))

    def whole(self) -> str:
        return "".join(self._pieces)


class LiveAnswer:
    """
    One answer: its writer grows it and ends it, any number of readers follow.

    A reader holds a cursor, takes everything since it, and waits for `changed`.
    """

    def __init__(self, *, pk: int, opening: Opening) -> None:
        """`pk` is the answer's row."""
        self.pk = pk
        self.opening = opening
        self.text = GrowingText()
        self.reasoning = GrowingText()
        self.first_token_at: datetime | None = None
        self.ending: Ending | None = None
        self.error: LLMBackendError | None = None
        self.taken = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def cursor(self) -> Cursor:
        """Where a reader stands that has everything."""
        return Cursor(self.reasoning.length, self.text.length)

    def grow(self, *, text: str, reasoning: str) -> None:
        if self.first_token_at is None:
            self.first_token_at = datetime.now(UTC)
        if reasoning:
            self.reasoning.append(reasoning)
        if text:
            self.text.append(text)
        self.wake()

    def rest_on(self, sources: list[dict[str, Any]]) -> None:
        """Name the sources; before the first text."""
        self.opening = replace(self.opening, sources=sources)

    def end(self, ending: Ending) -> None:
        self.ending = ending
        self.wake()

    def since(self, cursor: Cursor) -> Growth | None:
        """What `cursor` has not seen; None when it has seen everything."""
        here = self.cursor
        if here == cursor:
            return None
        return Growth(
            message_id=self.opening.message_id,
            reasoning=self.reasoning.since(cursor.reasoning),
            text=self.text.since(cursor.text),
            cursor=here,
        )

    def wake(self) -> None:
        """Let every waiting reader look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self) -> None:
        """Wait until the answer grows or ends, or a heartbeat is due."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def begun(self) -> None:
        """Wait for the first token or the end, whichever comes first."""
        while self.first_token_at is None and self.ending is None:
            await self.changed()
