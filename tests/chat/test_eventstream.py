"""The reader of server-sent events, with the SDK's decoder as its oracle."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from openai._streaming import SSEDecoder

from chat.eventstream import EventReader
from llmbackend.errors import ProviderProtocol

values = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12
)
fields = st.sampled_from(["data", "data", "data", "event", "id", "", "other"])
lines = st.one_of(
    st.builds("{}: {}".format, fields, values),
    st.builds("{}:{}".format, fields, values),
    st.sampled_from(["", "", "", "data", ": comment", "data:  two spaces"]),
)
line_ends = st.sampled_from(["\n", "\r", "\r\n"])
streams = st.lists(st.tuples(lines, line_ends).map("".join), max_size=20).map("".join)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def read(pieces: list[bytes], *, max_line: int = 1 << 20) -> list[bytes]:
    reader = EventReader(max_line=max_line)
    return [payload for piece in pieces for payload in reader.feed(piece)]


@given(streams, st.lists(st.integers(0, 1000), max_size=8))
def test_reads_what_the_sdk_reads_wherever_the_bytes_are_cut(stream, points):
    data = stream.encode()

    mine = read(cut(data, points))

    events = SSEDecoder().iter_bytes(iter([data]))
    # The SDK also reports an event that has only a name or an id, with no data.
    assert [m for m in mine if m] == [e.data.encode() for e in events if e.data]


@given(streams)
def test_one_byte_at_a_time_is_the_same_as_all_at_once(stream):
    data = stream.encode()

    assert read([data[i : i + 1] for i in range(len(data))]) == read([data])


def test_joins_the_lines_of_one_event():
    assert read([b"data: {\ndata:  1\ndata\ndata: }\n\n"]) == [b"{\n 1\n\n}"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_skips_a_byte_order_mark(size):
    data = b"\xef\xbb\xbfdata: x\n\n"

    assert read([data[i : i + size] for i in range(0, len(data), size)]) == [b"x"]


def test_a_line_feed_after_a_cut_crlf_ends_no_second_line():
    assert read([b"data: a\r", b"", b"\ndata: b\r", b"\n\r", b"\n"]) == [b"a\nb"]


def test_reads_thousands_of_events_of_one_packet():
    assert read([b"data: x\n\n" * 5000]) == [b"x"] * 5000


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_gives_a_last_event_that_lacks_its_blank_line(end):
    reader = EventReader()

    payloads = reader.feed(b"data: one\n\ndata: [DONE]" + end)

    assert payloads + reader.flush() == [b"one", b"[DONE]"]
    assert reader.flush() == []


@pytest.mark.parametrize(
    "data",
    [b"data: " + b"x" * 5000, b"x" * 5000, b"data: x\n" * 500, b"data\n" * 500],
    ids=["payload", "unknown field", "event of many lines", "empty lines of data"],
)
@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_bounds_what_it_holds(data, size):
    pieces = [data[start : start + size] for start in range(0, len(data), size)]

    with pytest.raises(ProviderProtocol):
        read(pieces, max_line=1000)


def test_many_short_events_pass_the_bound_of_one():
    reader = EventReader(max_line=100)

    assert len(reader.feed(b"data: 1234567890\n\n" * 1000)) == 1000
