"""Two rankings in one: weights, scales, and what one side alone has found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rag.fusion import Ranked, blended, fused, keyword_weight

cosines = st.floats(-1, 1, width=32)
bm25s = st.one_of(st.just(0.0), st.floats(0.125, 30, width=32))
bases = st.lists(st.tuples(cosines, bm25s), max_size=12)


def fuse(dense: list[float], keyword: list[float], weight: float) -> list[Ranked]:
    return fused(
        np.array(dense, np.float32), np.array(keyword, np.float32), weight=weight
    )


def rows(ranking: list[Ranked]) -> list[int]:
    return [found.row for found in ranking]


@pytest.mark.parametrize(
    ("mode", "strong", "known", "weight"),
    [
        ("hybrid", True, 1.0, 0.5),
        ("hybrid", True, 0.5, 0.25),
        ("hybrid", True, 0.0, 0.0),
        ("hybrid", False, 0.0, 0.7),
        ("hybrid", False, 1.0, 0.7),
        ("dense", True, 1.0, 0.0),
        ("dense", False, 1.0, 0.0),
        ("keyword", True, 0.0, 1.0),
    ],
)
def test_the_keywords_weigh_what_the_base_knows_of_them(mode, strong, known, weight):
    assert keyword_weight(mode, strong_embedder=strong, known_share=known) == weight


@given(bases, st.sampled_from([0, 0.25, 0.5, 0.7, 1]))
def test_scores_fall_from_one_to_zero_over_distinct_rows(base, weight):
    ranking = fuse([d for d, _ in base], [k for _, k in base], weight)

    scores = [found.score for found in ranking]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(rows(ranking))) == len(ranking)
    if weight < 1:
        assert set(rows(ranking)) == set(range(len(base)))


def test_both_sides_are_scaled_and_added_by_weight():
    ranking = fuse([0.9, 0.8, 0.7], [0.0, 2.0, 8.0], 0.25)

    assert rows(ranking) == [0, 1, 2]
    assert [found.dense for found in ranking] == pytest.approx([0.9, 0.8, 0.7])
    assert [found.keyword for found in ranking] == [0, 2, 8]
    scores = [found.score for found in ranking]
    assert scores == pytest.approx([0.75, 0.75 * 0.5 + 0.25 * 0.25, 0.25])


def test_a_row_beyond_the_best_of_a_side_has_nothing_from_it():
    size = 102
    dense = [1 - at / size for at in range(size)]
    keyword = [0.0] * (size - 1) + [5.0]

    ranking = fuse(dense, keyword, 0.75)

    assert ranking[0] == Ranked(row=size - 1, score=0.75, dense=0, keyword=5)
    assert len(ranking) == 101
    assert ranking[-1].row == 99
    assert ranking[-1].score == 0


def test_dense_alone_is_not_swayed_and_not_shortened():
    ranking = fuse([0.1, 0.3, 0.2], [9, 0, 0], 0)

    assert rows(ranking) == [1, 2, 0]
    assert [found.score for found in ranking] == pytest.approx([1, 0.5, 0])
    assert not any(found.keyword for found in ranking)


def test_keywords_alone_find_only_what_has_a_term():
    ranking = fuse([0.9, 0.9, 0.9], [0, 4, 2], 1)

    assert rows(ranking) == [1, 2]
    # The third has 0: having a term at all counts.
    assert [found.score for found in ranking] == [1, 0.5]
    assert not any(found.dense for found in ranking)


def test_a_question_of_unknown_words_is_ranked_by_meaning():
    weight = keyword_weight("hybrid", strong_embedder=True, known_share=0.0)

    ranking = fuse([0.2, 0.8], [0, 0], weight)

    assert [(found.row, found.score) for found in ranking] == [(1, 1), (0, 0)]


@pytest.mark.parametrize("weight", [0, 0.5, 1])
def test_a_base_of_one_chunk_has_it_at_its_full_weight(weight):
    [found] = fuse([0.4], [3], weight)

    assert found.score == 1


def test_equals_are_all_best_and_keep_their_order():
    ranking = fuse([0.5, 0.5, 0.5], [0, 0, 0], 0)

    assert [(found.row, found.score) for found in ranking] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("weight", [0, 0.5, 1])
def test_an_empty_base_has_nothing(weight):
    assert fuse([], [], weight) == []


def test_rows_are_ranked_by_their_nearness_and_told_by_their_cosine():
    ranking = fused(
        np.array([0.9, 0.8, 0.6], np.float32),
        np.zeros(3, np.float32),
        weight=0,
        nearness=np.array([0.5, 0.6, 0.7], np.float32),
    )

    assert rows(ranking) == [2, 1, 0]
    assert [found.score for found in ranking] == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert [found.dense for found in ranking] == pytest.approx([0.6, 0.8, 0.9])


def test_nearness_stands_in_for_keywords_where_they_say_less():
    ranking = fused(
        np.array([1, 1, 0.5, 0], np.float32),
        np.array([0, 4, 1, 0], np.float32),
        weight=0.5,
        stand_in=np.array([0.5, 0.5, 1, 1], np.float32),
    )

    assert rows(ranking) == [1, 0, 2, 3]
    assert [found.score for found in ranking] == [1, 0.75, 0.5, 0]
    assert [found.keyword for found in ranking] == [4, 0, 1, 0]


def ranked(row: int, score: float, *, dense: float = 0, keyword: float = 0) -> Ranked:
    return Ranked(row=row, score=score, dense=dense, keyword=keyword)


def test_rankings_are_added_by_weight_and_the_first_says_what_was_found():
    first = [ranked(4, 1.0, dense=0.9, keyword=3), ranked(2, 0.5, dense=0.8)]
    second = [ranked(7, 1.0, dense=0.7), ranked(2, 0.5, keyword=9)]

    assert blended([first, second], [0.25, 0.75]) == [
        ranked(7, 0.75),
        ranked(2, 0.5, dense=0.8),
        ranked(4, 0.25, dense=0.9, keyword=3),
    ]


def test_one_ranking_is_blended_with_nothing():
    only = fuse([0.9, 0.8, 0.8], [0, 2, 2], 0.5)

    assert blended([only], [1.0]) == only


def test_equals_of_a_blend_come_in_the_bases_order():
    assert rows(blended([[ranked(5, 1)], [ranked(3, 1)]], [0.5, 0.5])) == [3, 5]
