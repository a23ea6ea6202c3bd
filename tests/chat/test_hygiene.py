"""Text that can be stored, from pieces that cannot."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from chat.hygiene import Hygiene

texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("a\x00é😀👨‍👩‍👧\ufffd\U0010ffff"),
    )
)


def cleaned(pieces: list[str]) -> str:
    hygiene = Hygiene()
    return "".join([hygiene.feed(piece) for piece in pieces] + [hygiene.flush()])


def halves(text: str) -> str:
    """The text as JavaScript counts it: a code point above U+FFFF is two."""
    units = text.encode("utf-16-le")
    return "".join(
        chr(int.from_bytes(units[i : i + 2], "little")) for i in range(0, len(units), 2)
    )


@given(texts, st.lists(st.integers(0, 200), max_size=8))
def test_gives_the_text_back_however_its_utf16_is_cut(text, points):
    units = halves(text)
    edges = [0, *sorted(point % (len(units) + 1) for point in points), len(units)]
    pieces = [units[a:b] for a, b in pairwise(edges)]

    assert cleaned(pieces) == text.replace("\x00", "")


@given(st.lists(st.text(st.characters(), max_size=4)))
def test_whatever_comes_can_be_stored_and_no_clean_character_is_lost(pieces):
    text = cleaned(pieces)

    assert "\x00" not in text
    assert text.encode().decode() == text
    raw = "".join(pieces).replace("\x00", "")
    assert text == raw.encode("utf-16-le", "surrogatepass").decode(
        "utf-16-le", "replace"
    )


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["a\ud83d", "", "\ude00"], "a😀"),
        (["\ud83d", "\x00", "\ude00"], "😀"),
        (["\ud83d", "x"], "\ufffdx"),
        (["\ude00x"], "\ufffdx"),
        (["\ud83d"], "\ufffd"),
        (["\ud83d\ud83d", "\ude00"], "\ufffd😀"),
        (["\x00"], ""),
    ],
)
def test_joins_halves_replaces_lone_ones_and_drops_nul(pieces, expected):
    assert cleaned(pieces) == expected


def test_holds_back_nothing_but_a_first_half():
    hygiene = Hygiene()

    assert hygiene.feed("a\ud83d") == "a"
    assert hygiene.feed("") == ""
    assert hygiene.feed("\ude00") == "😀"
    assert hygiene.flush() == ""
