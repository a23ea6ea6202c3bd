"""chat.encoders: any text survives every framing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from chat.encoders import Encoder, SeedLines, ServerSentEvents, encoder_for
from chat.events import Cursor, Ending, Growth, Opening
from llmbackend.errors import Invalid

OPENING = Opening(
    conversation_id=7, question_id=1, message_id=2, model="gpt-4o", provider="fake"
)
# What storing allows: every code point but surrogates and NUL.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def grown(text: str, reasoning: str = "") -> Growth:
    cursor = Cursor(len(reasoning), len(text))
    return Growth(message_id=2, reasoning=reasoning, text=text, cursor=cursor)


@given(st.lists(texts.filter(bool)))
def test_seed_lines_carry_any_text(pieces: list[str]) -> None:
    encoder = SeedLines()

    stream = b"".join(encoder.growth(grown(piece)) for piece in pieces)

    lines = stream.decode().split("\n")
    assert all(line == "" for line in lines[1::2])
    told = [json.loads(line) for line in lines[::2] if line]
    assert [event["data"] for event in told] == pieces


@given(st.lists(st.tuples(texts, texts).filter(any)))
def test_standard_events_carry_any_text_and_reasoning(
    growths: list[tuple[str, str]],
) -> None:
    encoder = ServerSentEvents()

    stream = b"".join(encoder.growth(grown(*growth)) for growth in growths)

    text, reasoning = "", ""
    # A browser ends lines at CR, LF and CRLF, and nowhere else.
    assert b"\r" not in stream
    for block in stream.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        told = json.loads(fields["data"])
        assert told["event"] == fields["event"]
        if told["event"] == "message":
            text += told["data"]
        else:
            reasoning += told["data"]
    assert text == "".join(growth[0] for growth in growths)
    assert reasoning == "".join(growth[1] for growth in growths)


def test_the_id_between_reasoning_and_text_stands_before_the_text() -> None:
    growth = Growth(message_id=2, reasoning="ab", text="cde", cursor=Cursor(5, 8))

    frames = ServerSentEvents().growth(growth).decode()

    ids = [line for line in frames.split("\n") if line.startswith("id: ")]
    assert ids == ["id: 2-5-5", "id: 2-5-8"]


@pytest.mark.parametrize("status", ["complete", "stopped"])
def test_what_ended_well_ends_with_done(status: str) -> None:
    ending = Ending(message_id=2, status=status, full_text="Hi")

    assert b'"event":"done"' in SeedLines().ending(ending)
    assert b"event: done" in ServerSentEvents().ending(ending)


@pytest.mark.parametrize("status", ["truncated", "failed", "interrupted"])
def test_what_ended_badly_ends_with_an_error_alone(status: str) -> None:
    ending = Ending(message_id=2, status=status, error="Sorry.", code="sorry")

    assert SeedLines().ending(ending) == b'{"event":"error", "data":"Sorry."}\n\n'
    assert b"event: done" not in ServerSentEvents().ending(ending)
    assert b"event: error" in ServerSentEvents().ending(ending)


def test_what_started_and_the_sources_are_for_standard_events_alone() -> None:
    opening = Opening(
        conversation_id=7,
        question_id=1,
        message_id=2,
        model="m",
        provider="p",
        sources=[{"doc_name": "合同.docx"}],
    )

    encoder = ServerSentEvents()

    assert b"event: started" in encoder.opening(opening, Cursor())
    assert "合同.docx" in encoder.sources(opening).decode()
    assert SeedLines().opening(opening, Cursor()) == b""
    assert SeedLines().sources(opening) == b""


def test_heartbeats_are_for_standard_events_alone() -> None:
    assert ServerSentEvents.heartbeat.startswith(b":")
    assert SeedLines.heartbeat == b""


def test_every_empty_line_ends_an_event_that_has_data() -> None:
    encoder = ServerSentEvents()
    ending = Ending(message_id=2, status="complete", full_text="Hi")

    stream = b"".join(
        [
            encoder.opening(OPENING, Cursor()),
            encoder.heartbeat,
            encoder.growth(grown("Hi", "Hm")),
            encoder.heartbeat,
            encoder.heartbeat,
            encoder.ending(ending),
        ]
    )

    blocks = stream.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all("\ndata: " in block for block in blocks)


@pytest.mark.parametrize(
    ("query", "accept", "configured", "expected"),
    [
        ("", "", "auto", SeedLines),
        ("", "*/*", "auto", SeedLines),
        ("", "text/event-stream", "auto", ServerSentEvents),
        ("", "text/event-stream", "seed", SeedLines),
        ("", "", "sse", ServerSentEvents),
        ("format=seed", "text/event-stream", "sse", SeedLines),
        ("a=b&format=sse", "", "seed", ServerSentEvents),
    ],
)
def test_query_then_config_then_accept(
    query: str, accept: str, configured: str, expected: type[Encoder]
) -> None:
    encoder = encoder_for(query=query, accept=accept, configured=configured)

    assert isinstance(encoder, expected)


def test_another_format_is_invalid() -> None:
    with pytest.raises(Invalid, match="seed or sse"):
        encoder_for(query="format=xml", accept="", configured="auto")
