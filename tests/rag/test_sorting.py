"""Postings in the order of their terms, whatever the terms and the slices."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from rag.sorting import BLOCK, KEYS, Sorter

# With upper and lower halves in common, and the ends.
terms = st.sampled_from([0, 1, 1 << 16, (1 << 16) + 1, 0xFF_0000_00, 0xFFFF_FFFF])
slices = arrays(np.uint32, st.integers(0, 9), elements=terms)


def put(sorter: Sorter, parts: list[np.ndarray]) -> np.ndarray:
    """Puts the terms with ascending postings; what should come out of it."""
    ids = np.concatenate([np.zeros(0, np.uint32), *parts])
    postings = np.arange(len(ids), dtype=np.uint32)
    start = 0
    for part in parts:
        sorter.put(part, postings[start : start + len(part)])
        start += len(part)
    return np.sort(ids.astype(np.uint64) << np.uint64(32) | postings)


def taken(sorter: Sorter) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.uint64), *sorter.parts()])


@given(st.lists(slices, max_size=5))
def test_postings_come_in_the_order_of_terms_and_of_their_coming(parts):
    sorter = Sorter()

    expected = put(sorter, parts)

    assert len(sorter) == len(expected)
    np.testing.assert_array_equal(taken(sorter), expected)


def test_many_come_in_parts_of_some_hundred_thousand():
    random = np.random.default_rng(1)
    parts = [random.integers(1 << 32, size=KEYS // 2, dtype=np.uint32)] * 9
    sorter = Sorter()

    expected = put(sorter, parts)

    np.testing.assert_array_equal(taken(sorter), expected)
    sizes = [len(part) for part in sorter.parts()]
    assert max(sizes) < 2 * KEYS
    assert len(sizes) > 1


def test_they_are_sorted_in_the_room_there_is():
    rooms = [np.zeros(size, np.uint64) for size in (100, 30, 90)]
    sorter = Sorter(rooms=rooms)
    parts = [np.arange(n, n + 40, dtype=np.uint32) for n in range(1, 6)]

    expected = put(sorter, parts)

    np.testing.assert_array_equal(taken(sorter), expected)
    assert [np.count_nonzero(room) for room in rooms] == [80, 0, 80]


def test_a_slice_may_be_larger_than_any_room():
    parts = [np.zeros(BLOCK + 1, np.uint32)]
    sorter = Sorter()

    expected = put(sorter, parts)

    np.testing.assert_array_equal(taken(sorter), expected)
