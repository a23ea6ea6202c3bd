"""Nothing is relevant when no passage is near and none holds enough of the question."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from rag.overlap import Overlap
from rag.passages import Passage
from rag.relevance import is_relevant
from rag.terms import Ids, question_terms, terms_of

LEASE = "租赁期限不得超过二十年。超过二十年的,超过部分无效。"
SWIFTS = "The common swift spends almost its whole life in the air."


def passage(content: str, *, dense: float) -> Passage:
    return Passage(
        content=content,
        score=1,
        dense=dense,
        keyword=0,
        document_id=uuid.uuid4(),
        document_name="a.txt",
        chunk_ids=(1,),
        ordinals=(1, 1),
        start=0,
        end=len(content),
        page=None,
        heading_path=(),
    )


def alike(terms: Ids) -> np.ndarray:
    return np.ones(len(terms), np.float32)


def judged(
    question: str, *passages: Passage, model: str = "local-e5", idf=alike
) -> bool:
    return is_relevant(question, passages, embedding_model=model, idf=idf)


class TestIsRelevant:
    @pytest.mark.parametrize(
        ("model", "near", "far"),
        [
            ("local-e5", 0.88, 0.87),
            ("local-ngram", 0.2, 0.19),
            ("embedding-3", 0.2, 0.19),
        ],
    )
    def test_what_is_near_is_whatever_its_words(self, model, near, far):
        question = "房子最多能借多久?"

        assert judged(question, passage(LEASE, dense=near), model=model)
        assert not judged(question, passage(LEASE, dense=far), model=model)

    @pytest.mark.parametrize("model", ["local-e5", "local-ngram", "embedding-3"])
    def test_what_holds_much_of_the_question_is_however_far(self, model):
        assert judged("租赁期限多久?", passage(LEASE, dense=0.1), model=model)
        assert judged("common swift life?", passage(SWIFTS, dense=0.1), model=model)

    @pytest.mark.parametrize(
        ("question", "content", "near", "far"),
        [
            # Two words of five, and a little under half of the characters and pairs.
            ("What does the common tern feed its whole brood on?", SWIFTS, 0.84, 0.83),
            ("租赁的期限应当如何?", LEASE, 0.87, 0.85),
        ],
    )
    def test_the_farther_a_passage_the_more_it_must_hold(
        self, question, content, near, far
    ):
        assert judged(question, passage(content, dense=near))
        assert not judged(question, passage(content, dense=far))

    @pytest.mark.parametrize(("near", "relevant"), [(0.89, True), (0.88, False)])
    def test_one_that_does_not_hold_the_most_must_be_nearer(self, near, relevant):
        """To be near is enough for one that does from .88 on."""
        question = "房子最多能借多久?"
        holds_most = passage("房子最贵。", dense=0.8)

        assert judged(question, passage(LEASE, dense=near), holds_most) == relevant
        assert judged(question, passage(LEASE, dense=0.88), passage("鹳", dense=0.8))

    def test_in_words_less_must_be_held_than_in_characters(self):
        half = "The common tern feeds its brood."

        assert judged("common brood oil gas", passage(half, dense=0.85))
        assert not judged("租赁油气", passage(LEASE, dense=0.85))

    def test_of_n_grams_the_share_is_one_however_far(self):
        question = "What does the common tern feed its whole brood on?"
        fourth = "common swift tern whole"

        for dense in (0.0, 0.19):
            swift = passage(SWIFTS, dense=dense)
            assert not judged(question, swift, model="local-ngram")
            assert judged(fourth, swift, model="local-ngram")

    def test_each_passage_is_judged_by_itself(self):
        """One that is nearer and one that holds more make none that does both."""
        question = "What does the common tern feed its whole brood on?"
        nearer = passage("Gulls nest on cliffs.", dense=0.87)
        holds_more = passage(SWIFTS, dense=0.8)

        assert not judged(question, nearer, holds_more)

    def test_one_passage_of_many_is_enough(self):
        others = [passage("光合作用", dense=0.8), passage("红烧肉", dense=0.8)]

        assert not judged("租赁期限多久?", *others)
        assert judged("租赁期限多久?", *others, passage(LEASE, dense=0.8))

    def test_no_passage_is_about_anything(self):
        assert not judged("租赁期限多久?")

    def test_a_question_without_words_has_the_near_ones_alone(self):
        assert judged("??", passage(SWIFTS, dense=0.9))
        assert not judged("??", passage(LEASE, dense=0.8))

    @pytest.mark.parametrize(
        ("model", "relevant"),
        [("local-e5", True), ("embedding-3", True), ("local-ngram", False)],
    )
    def test_another_script_is_judged_by_no_threshold_of_this_one(
        self, model, relevant
    ):
        asked_in_chinese = judged(
            "雨燕一生在哪里度过?", passage(SWIFTS, dense=0.1), model=model
        )
        asked_in_english = judged(
            "How long may a lease last?", passage(LEASE, dense=0.1), model=model
        )

        assert asked_in_chinese == asked_in_english == relevant


class TestOverlap:
    def test_all_of_a_question_is_one_and_nothing_is_none(self):
        overlap = Overlap("swift air 租赁", idf=alike)

        assert overlap.share(terms_of("租赁 swifts, air")) == pytest.approx(1)
        assert overlap.share(terms_of("tern 承")) == 0
        assert Overlap("", idf=alike).share(terms_of("tern")) == 0

    def test_a_pair_weighs_less_than_its_characters(self):
        apart = Overlap("租赁", idf=alike).share(terms_of("赁租"))

        assert apart == pytest.approx(2 / (2 + 1 / 3))

    def test_a_rare_term_weighs_more(self):
        def idf(terms: Ids) -> np.ndarray:
            return np.where(terms == question_terms("swift")[0], 3, 1).astype("f4")

        overlap = Overlap("swift air", idf=idf)

        assert overlap.share(terms_of("swift")) == pytest.approx(0.75)
        assert overlap.share(terms_of("air")) == pytest.approx(0.25)
