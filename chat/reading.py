"""Reading an answer along, from any place to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from chat.answers import Reading
from chat.encoders import Encoder, WebSocketFrames


async def read_along(
    reading: Reading, encoder: Encoder | WebSocketFrames
) -> AsyncGenerator[Any, None]:
    """
    What a reader is sent, as `encoder` makes it, until the end has been told.

    It ends without an end when the process that serves the reader ends.
    """
    answer, cursor = reading.answer, reading.cursor
    heartbeat = getattr(encoder, "heartbeat", None)
    yield encoder.opening(answer.opening, cursor)
    told_sources = False
    while True:
        if answer.opening.sources and not told_sources:
            told_sources = True
            yield encoder.sources(answer.opening)
        frame = answer.frame(cursor, encode=encoder.growth)
        if frame is not None:
            made, cursor = frame
            yield made
        elif answer.ending is not None:
            yield encoder.ending(answer.ending)
            return
        elif answer.lost:
            return
        else:
            opening = answer.opening
            await answer.changed()
            silent = answer.cursor == cursor and answer.opening is opening
            if silent and answer.ending is None and heartbeat:
                yield heartbeat
