"""`local-ngram`: what is alike in words is near, and what is stored never changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rag.ngrams import (
    DIMENSION,
    SLICE,
    idf_from,
    idf_of,
    passage_vectors,
    query_vector,
)

PAGES = [
    "The tenant pays a deposit of two months' rent.",
    "承租人应当按照约定的期限支付租金。",
    "Photosynthesis turns light into sugar.",
    "光合作用把光能变成糖。",
]


def test_vectors_are_what_they_have_always_been():
    [vector] = passage_vectors(["Cats 猫猫 猫"])

    places = np.flatnonzero(vector)
    found = {int(at): round(float(vector[at]), 4) for at in places}
    assert found == {585: -0.8826, 936: -0.4205, 1871: -0.2103}


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("How high is the deposit?", 0),
        ("租金什么时候支付?", 1),
        ("What is made of light?", 2),
    ],
)
def test_a_question_is_nearest_to_the_page_that_answers_it(question, page):
    matrix = passage_vectors(PAGES)

    assert (matrix @ query_vector(question, idf_of(matrix))).argmax() == page


@given(st.lists(st.text(max_size=80), max_size=5))
def test_rows_are_of_unit_length_and_zeros_for_no_terms(texts):
    vectors = passage_vectors(texts)

    assert vectors.shape == (len(texts), DIMENSION)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths == pytest.approx(np.where(vectors.any(axis=1), 1, 0), abs=1e-5)


def test_a_passage_does_not_depend_on_its_company():
    alone = passage_vectors(PAGES[:1])[0]

    assert (passage_vectors(PAGES)[0] == alone).all()


def test_common_words_weigh_nothing_beside_others():
    plain, wordy = passage_vectors(["tenant rent", "the tenant and the rent of it"])

    assert (plain == wordy).all()


def test_idf_is_of_the_buckets_in_use():
    rows = SLICE + 10
    matrix = np.zeros((rows, DIMENSION), np.float32)
    matrix[:, 0] = -0.5
    matrix[SLICE:, 1] = 0.5

    idf = idf_of(matrix)

    used = np.zeros(DIMENSION, np.int64)
    used[:2] = rows, 10
    assert (idf == idf_from(used, rows)).all()
    assert 0 < idf[0] < idf[1] < idf[2] == pytest.approx(np.log1p((rows + 0.5) / 0.5))


def test_a_rare_word_of_a_question_turns_it():
    pages = passage_vectors(["rent lease"] * 50 + ["deposit"])
    vector = query_vector("rent deposit", idf_of(pages))

    assert vector @ pages[50] > 0.95
    assert vector @ pages[0] < 0.3


@pytest.mark.parametrize("text", ["", "?!", " \n"])
def test_a_question_without_words_has_no_direction(text):
    assert not query_vector(text, np.ones(DIMENSION, np.float32)).any()


def test_an_empty_base_has_an_idf():
    assert idf_of(passage_vectors([])).shape == (DIMENSION,)
