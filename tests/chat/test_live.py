"""chat.live: the text that grows, and those who wait for more."""

from __future__ import annotations

import asyncio

from hypothesis import given, strategies as st

from chat.events import Cursor, Opening
from chat.live import PIECES_BEFORE_JOIN, GrowingText, LiveAnswer

OPENING = Opening(
    conversation_id=7, question_id=1, message_id=2, model="gpt-4o", provider="fake"
)


@given(st.lists(st.text(min_size=1)), st.integers(0, 100))
def test_a_text_is_readable_from_any_offset(pieces: list[str], offset: int) -> None:
    text = GrowingText()

    for piece in pieces:
        text.append(piece)

    assert text.whole() == "".join(pieces)
    assert text.length == len("".join(pieces))
    assert text.since(offset) == "".join(pieces)[offset:]


def test_many_pieces_are_joined_and_nothing_moves() -> None:
    text = GrowingText()

    for number in range(3 * PIECES_BEFORE_JOIN):
        text.append(str(number % 10))

    expected = "0123456789" * (3 * PIECES_BEFORE_JOIN // 10 + 1)
    assert text.whole() == expected[: 3 * PIECES_BEFORE_JOIN]
    assert text.since(2000) == expected[2000 : 3 * PIECES_BEFORE_JOIN]


async def test_a_reader_that_comes_back_gets_everything_in_one_growth() -> None:
    answer = LiveAnswer(pk=2, opening=OPENING)
    for piece in ["Hel", "lo", " there"]:
        answer.grow(text=piece, reasoning="")

    growth = answer.since(Cursor(0, 3))

    assert growth is not None
    assert growth.text == "lo there"
    assert growth.cursor == Cursor(0, 11)
    assert answer.since(growth.cursor) is None


async def test_growth_and_end_wake_every_reader() -> None:
    answer = LiveAnswer(pk=2, opening=OPENING)
    readers = [asyncio.create_task(answer.changed()) for _ in range(3)]
    await asyncio.sleep(0)

    answer.grow(text="a", reasoning="")
    await asyncio.gather(*readers)
    reader = asyncio.create_task(answer.changed())
    await asyncio.sleep(0)
    answer.end(status="complete")
    await reader


async def test_a_reader_that_left_while_it_waited_is_no_trouble() -> None:
    answer = LiveAnswer(pk=2, opening=OPENING)
    reader = asyncio.create_task(answer.changed())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})

    answer.grow(text="a", reasoning="")

    assert answer.text.whole() == "a"


async def test_begun_waits_through_heartbeats() -> None:
    answer = LiveAnswer(pk=2, opening=OPENING)
    begun = asyncio.create_task(answer.begun(Cursor()))
    await asyncio.sleep(0)

    answer.wake()
    await asyncio.sleep(0)
    assert not begun.done()
    answer.grow(text="", reasoning="Hm")
    await begun
