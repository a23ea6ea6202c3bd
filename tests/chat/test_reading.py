"""A reader is sent an answer as it grows, and costs nobody else anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chat.answers import Reading
from chat.encoders import ENCODERS, SeedLines
from chat.events import Opening
from chat.live import LiveAnswer
from chat.reading import read_along
from llmbackend.direct_write import Write

OPENING = Opening(
    conversation_id=7, question_id=1, message_id=2, model="m", provider="p"
)
LINES = SeedLines()


class Client:
    """Takes what it is sent, or makes it wait, or is gone."""

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.waiting = False
        self.gone = False
        self.written = 0

    def write(self, frame: bytes) -> bool:
        if self.gone:
            raise ConnectionResetError
        if self.takes.is_set():
            self.told.append(frame)
            self.written += 1
        return self.takes.is_set()

    async def send(self, frame: bytes) -> None:
        if self.gone:
            raise ConnectionResetError
        self.waiting = True
        # Twice: what is left of a sending may have to wait again.
        await self.takes.wait()
        await self.takes.wait()
        self.waiting = False
        self.told.append(frame)


@pytest.fixture
def answer() -> LiveAnswer:
    return LiveAnswer(pk=2, opening=OPENING)


def line(text: str) -> bytes:
    return f'{{"event":"message", "data":"{text}"}}\n\n'.encode()


async def begun(
    answer: LiveAnswer, client: Client, *, write: Write | None = None
) -> asyncio.Task[Any]:
    """A reader that waits for the answer to grow."""
    reading = Reading(answer, answer.start)
    reader = asyncio.create_task(read_along(reading, LINES, client.send, write=write))
    await asyncio.sleep(0)
    return reader


async def test_is_sent_what_comes_before_anything_else_runs(answer: LiveAnswer) -> None:
    client = Client()
    reader = await begun(answer, client)

    answer.grow(text="Hel", reasoning="")
    answer.grow(text="lo", reasoning="")

    assert client.told[1:] == [line("Hel"), line("lo")]
    answer.end(status="complete")
    assert b"full_response" in await reader


async def test_who_does_not_take_it_is_sent_the_rest_at_once(
    answer: LiveAnswer,
) -> None:
    slow, quick = Client(), Client()
    readers = [await begun(answer, slow), await begun(answer, quick)]
    slow.takes.clear()

    for piece in ["Hel", "lo ", "there"]:
        answer.grow(text=piece, reasoning="")

    assert slow.waiting
    assert slow.told[1:] == []
    assert quick.told[1:] == [line("Hel"), line("lo "), line("there")]
    slow.takes.set()
    answer.end(status="complete")
    slow_end, quick_end = await asyncio.gather(*readers)
    assert slow.told[1:] == [line("Hel"), line("lo there")]
    assert quick.told[1:] == [line("Hel"), line("lo "), line("there")]
    assert slow_end == quick_end


async def test_is_written_what_need_not_wait_and_sent_the_rest(
    answer: LiveAnswer,
) -> None:
    client = Client()
    reader = await begun(answer, client, write=client.write)

    answer.grow(text="Hel", reasoning="")
    client.takes.clear()
    answer.grow(text="lo ", reasoning="")
    answer.grow(text="the", reasoning="")
    assert client.waiting
    client.takes.set()
    for _ in range(4):  # The turns it takes to be sent, and to wait for more.
        await asyncio.sleep(0)
    assert not client.waiting
    answer.grow(text="re", reasoning="")
    answer.end(status="complete")

    assert b"full_response" in await reader
    pieces = ["Hel", "lo ", "the", "re"]
    assert client.told[1:] == [line(piece) for piece in pieces]
    assert client.written == 4  # With the opening; all but what had to wait.


async def test_who_leaves_while_waited_for_leaves_nothing(answer: LiveAnswer) -> None:
    client = Client()
    reader = await begun(answer, client)
    client.takes.clear()
    answer.grow(text="Hel", reasoning="")
    await asyncio.sleep(0)

    reader.cancel()
    await asyncio.wait({reader})
    client.takes.set()
    answer.grow(text="lo", reasoning="")
    answer.end(status="complete")

    assert reader.cancelled()
    assert client.told[1:] == []


@pytest.mark.parametrize("writes", [False, True])
async def test_who_is_gone_fails_alone(answer: LiveAnswer, writes: bool) -> None:
    gone, other = Client(), Client()
    reader = await begun(answer, gone, write=gone.write if writes else None)
    others = await begun(answer, other)
    gone.gone = True

    answer.grow(text="Hel", reasoning="")
    answer.grow(text="lo", reasoning="")

    with pytest.raises(ConnectionResetError):
        await reader
    assert other.told[1:] == [line("Hel"), line("lo")]
    answer.lose()
    assert await others is None
    assert len(other.told) == 3


async def test_a_heartbeat_is_sent_where_the_format_has_one(answer: LiveAnswer) -> None:
    lines, events = Client(), Client()
    reading = Reading(answer, answer.start)
    readers = [
        asyncio.create_task(read_along(reading, ENCODERS["seed"], lines.send)),
        asyncio.create_task(read_along(reading, ENCODERS["sse"], events.send)),
    ]
    await asyncio.sleep(0)

    answer.beat()

    assert lines.told == [b""]
    assert events.told[1:] == [b":\n"]
    answer.lose()
    await asyncio.gather(*readers)
