"""BM25 over stored rows: the formula's scores, whatever the rows and the question."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rag.keyword import K1, SLICE, B, KeywordBuilder, KeywordIndex
from rag.sorting import KEYS
from rag.terms import RECORD, pack_terms, question_terms

PAGES = [
    "The tenant pays the deposit.",
    "租客支付押金。押金两个月。",
    "",
    "The landlord returns the deposit within thirty days of the end of the lease.",
]
words = st.sampled_from(["rent", "lease", "deposit", "租", "租客", "押金", "月"])
texts = st.lists(st.lists(words, max_size=8).map(" ".join), min_size=1, max_size=9)


def rows_of(pages: list[str]) -> list[bytes]:
    return [pack_terms(page) for page in pages]


def bm25(rows: list[bytes], question: np.ndarray) -> list[float]:
    """The formula, read off the page."""
    bags = [Counter(dict(np.frombuffer(row, RECORD).tolist())) for row in rows]
    mean = sum(map(Counter.total, bags)) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for term in set(question.tolist()):
            df = sum(term in other for other in bags)
            idf = math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
            length = bag.total() / mean if mean else 0
            score += idf * bag[term] / (bag[term] + K1 * (1 - B + B * length))
        scores.append(score)
    return scores


@given(texts, st.lists(words, max_size=5).map(" ".join))
def test_scores_as_the_formula_does(pages, question):
    rows, asked = rows_of(pages), question_terms(question)

    scores = KeywordIndex.build(rows).scores(asked)

    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx(bm25(rows, asked), rel=1e-5)


@given(texts, st.lists(words, max_size=5).map(" ".join))
def test_an_index_of_the_asked_terms_alone_answers_alike(pages, question):
    rows, asked = rows_of(pages), question_terms(question)
    whole = KeywordIndex.build(rows)
    builder = KeywordBuilder(only=asked)
    for row in rows:
        builder.add([row])

    part = builder.finish()

    assert part.scores(asked).tolist() == whole.scores(asked).tolist()
    assert part.known_share(asked) == whole.known_share(asked)
    assert part.idf(asked).tolist() == whole.idf(asked).tolist()


def test_what_is_held_of_a_question_is_the_best_chunks_share():
    pages = [*PAGES, "landlord deposit " * 50]
    index = KeywordIndex.build(rows_of(pages))

    def held(question: str) -> float:
        asked = question_terms(question)
        return index.held(asked, index.scores(asked))

    assert 0.9 < held("landlord deposit") < 1
    assert 0 < held("landlord unheard deposit whatever") < 0.6
    assert held("unheard") == held("") == 0


def test_an_index_of_the_asked_terms_alone_keeps_no_others():
    builder = KeywordBuilder(only=question_terms("deposit"))
    builder.add(rows_of(PAGES))

    part = builder.finish()

    assert part.known_share(question_terms("deposit tenant landlord lease")) == 0.25


def test_finds_the_page_that_has_the_words():
    index = KeywordIndex.build(rows_of(PAGES))

    assert index.scores(question_terms("When is the deposit returned?")).argmax() == 3
    assert index.scores(question_terms("押金多少?")).argmax() == 1
    assert not index.scores(question_terms("weather")).any()


def test_rows_and_terms_beyond_a_slice_keep_their_places():
    size, needle = 2 * SLICE + 20, SLICE + 5
    pages = [
        " ".join(f"t{(at * 7 + n) % 997}" for n in range(150)) for at in range(size)
    ]
    pages[needle] = "needle"
    rows = rows_of(pages)
    assert sum(map(len, rows)) > RECORD.itemsize * KEYS

    index = KeywordIndex.build(rows)

    assert np.flatnonzero(index.scores(question_terms("needle"))).tolist() == [needle]
    for number in range(0, 997, 83):
        found = np.flatnonzero(index.scores(question_terms(f"t{number}"))).tolist()
        assert found == [
            at for at in range(size) if (number - at * 7) % 997 < 150 and at != needle
        ]


def test_a_rare_word_outweighs_a_common_one_and_an_unknown_one_is_as_rare():
    index = KeywordIndex.build(rows_of(["rent due", "rent now", "rent", "lease now"]))
    common, rare, absent = (
        index.idf(question_terms(w))[0] for w in ("rent", "due", "x")
    )

    assert common < rare == absent


def test_known_share_counts_distinct_terms_that_occur():
    index = KeywordIndex.build(rows_of(PAGES))

    assert index.known_share(question_terms("deposit deposit unicorn")) == 0.5
    assert index.known_share(question_terms("押金")) == 1
    assert index.known_share(question_terms("独角兽")) == 0
    assert index.known_share(question_terms("?")) == 0


@pytest.mark.parametrize("rows", [[], [b""], [b"", b""]])
def test_a_base_without_terms_knows_nothing(rows):
    index = KeywordIndex.build(rows)

    assert index.scores(question_terms("deposit")).tolist() == [0] * len(rows)
    assert index.known_share(question_terms("deposit")) == 0


def test_takes_four_bytes_a_posting_and_little_more():
    rows = rows_of(
        [" ".join(f"w{n % 50}" for n in range(m, m + 40)) for m in range(2000)]
    )

    index = KeywordIndex.build(rows)

    postings = sum(map(len, rows)) // 5
    assert 4 * postings <= index.nbytes < 4 * postings + 10 * len(rows)


def test_a_builder_begins_anew_when_it_has_finished():
    builder = KeywordBuilder()
    builder.add(rows_of(PAGES))
    builder.finish()
    builder.add(rows_of(["deposit"]))

    assert builder.finish().scores(question_terms("deposit")).shape == (1,)
