"""Vectors as bytes, one matrix of them, and the best rows of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from rag.dense import ROOM, SLICE, STRIDES, DenseIndex, pack, top

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
vectors = arrays(np.float32, st.integers(1, 40), elements=finite).filter(np.any)
few = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])


def test_its_memory_is_of_use_before_it_is_filled():
    index = DenseIndex(size=3, dimension=ROOM + 1)

    rooms = index.rooms
    for number, room in enumerate(rooms):
        room.fill(number)

    assert [len(room) for room in rooms] == [ROOM, ROOM // 2 + 1]
    assert [set(room.tolist()) for room in rooms] == [{0}, {1}]
    assert all(np.shares_memory(room, index._matrix) for room in rooms)


def index_of(rows: list[bytes], dimension: int) -> DenseIndex:
    index = DenseIndex(size=len(rows), dimension=dimension)
    index.fill(rows)
    return index


@given(vectors)
def test_a_packed_vector_is_little_endian_of_unit_length_and_its_direction(vector):
    unpacked = np.frombuffer(pack(vector), "<f4").astype(np.float64)

    assert len(unpacked) == len(vector)
    assert np.linalg.norm(unpacked) == pytest.approx(1, abs=1e-6)
    exact = vector.astype(np.float64)
    assert unpacked == pytest.approx(exact / np.linalg.norm(exact), abs=1e-6)


@pytest.mark.parametrize("value", [1e-300, 1e300])
def test_neither_tiny_nor_huge_vectors_lose_their_direction(value):
    assert pack([value, 0]) == pack([1, 0])


@pytest.mark.parametrize(
    "vector", [[0, 0], [], [1, float("nan")], [float("inf"), 1], [-float("inf")]]
)
def test_a_vector_without_a_direction_is_refused(vector):
    with pytest.raises(ValueError, match="direction"):
        pack(vector)


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_scores_are_inner_products_in_the_order_of_filling(kind):
    dimension = 1024
    size = SLICE // (4 * dimension) + 90
    matrix = np.random.default_rng(1).standard_normal((size, dimension))
    rows = [kind(pack(row)) for row in matrix]
    index = DenseIndex(size=size, dimension=dimension)
    index.fill(rows[:7])
    index.fill(rows[7:])

    scores = index.scores(matrix[3].astype(np.float32))

    lengths = np.linalg.norm(matrix, axis=1)
    assert scores.dtype == np.float32
    assert scores == pytest.approx(matrix @ matrix[3] / lengths, abs=1e-5)


def test_only_what_was_filled_is_searched():
    index = DenseIndex(size=3, dimension=2)
    index.fill([pack([1, 0]), pack([0, 1])])

    assert index.scores(np.array([1, 0], np.float32)).tolist() == [1, 0]
    assert index.nbytes == 3 * 2 * 4


def test_an_empty_base_scores_nothing():
    assert index_of([], 4).scores(np.zeros(4, np.float32)).tolist() == []


@pytest.mark.parametrize("length", [0, 4, 7, 12])
def test_a_row_of_another_length_is_refused_whatever_the_total(length):
    rows = [bytes(8), bytes(length), bytes(16 - length)]

    with pytest.raises(ValueError, match="8 bytes"):
        index_of(rows, 2)


def test_more_rows_than_there_is_room_for_are_refused():
    index = index_of([pack([1, 0])], 2)

    with pytest.raises(ValueError, match="room for 1"):
        index.fill([pack([0, 1])])


@given(st.lists(few, max_size=30 + 4 * STRIDES), st.integers(0, 35))
def test_the_best_come_first_and_of_equals_the_earliest(values, k):
    scores = np.array(values, np.float32)

    places, best = top(scores, k=k)

    by_hand = sorted(range(len(values)), key=lambda at: (-values[at], at))[:k]
    assert places.tolist() == by_hand
    assert best.tolist() == [values[at] for at in by_hand]
