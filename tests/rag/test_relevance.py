"""Nothing is relevant when no passage is near and none holds enough of the question."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from django.conf import settings
from django.utils import timezone

from llmbackend.connected import Providers
from rag.bases import changed
from rag.dense import pack
from rag.followups import readings
from rag.indexes import Base
from rag.models import Chunk, Document, KnowledgeBase
from rag.overlap import Overlap
from rag.passages import Passage
from rag.relevance import is_relevant
from rag.retrieval import Knowledge
from rag.terms import Ids, pack_terms, question_terms, terms_of
from tests.conftest import make_user

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
    question: str,
    *passages: Passage,
    model: str = "local-e5",
    idf=alike,
    cosines: np.ndarray | None = None,
) -> bool:
    return is_relevant(
        question, passages, embedding_model=model, idf=idf, cosines=cosines
    )


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


def around(cosine: float, *, chunks: int = 20) -> np.ndarray:
    """What a question's cosines are to a base whose chunks are all as near."""
    return np.full(chunks, cosine, np.float32)


# Nothing in common with a lease, nor with each other.
OTHERS = ("光合作用在叶绿体中进行。", "红烧肉先炒糖色。")


def with_others(best: Passage, cosine: float) -> list[Passage]:
    return [best, *(passage(content, dense=cosine) for content in OTHERS)]


class TestStandsOut:
    """With the embedded model, where there is enough to compare."""

    QUESTION = "房子最多能借多久?"

    @pytest.mark.parametrize(("dense", "relevant"), [(0.86, True), (0.84, False)])
    def test_what_leads_is_relevant_though_it_is_not_near(self, dense, relevant):
        found = with_others(passage(LEASE, dense=dense), 0.8)

        assert judged(self.QUESTION, *found, cosines=around(0.8)) == relevant
        assert not judged(self.QUESTION, *found)

    def test_what_is_near_and_does_not_lead_is_not(self):
        found = with_others(passage(LEASE, dense=0.9), 0.895)

        assert not judged(self.QUESTION, *found, cosines=around(0.8))
        assert judged(self.QUESTION, *found)

    def test_it_leads_the_next_three_by_their_mean(self):
        best = passage(LEASE, dense=0.86)
        near, farther, far = (passage(OTHERS[0], dense=d) for d in (0.84, 0.8, 0.7))

        base = around(0.83)
        assert judged(self.QUESTION, best, near, near, farther, cosines=base)
        assert not judged(self.QUESTION, best, near, near, near, far, cosines=base)

    def test_in_words_it_leads_the_next_two(self):
        question = "Where does it sleep?"
        best = passage(SWIFTS, dense=0.8)
        near, farther, far = (
            passage("Photosynthesis needs light.", dense=d) for d in (0.79, 0.74, 0.5)
        )

        base = around(0.82)
        assert judged(question, best, near, farther, cosines=base)
        assert not judged(question, best, near, near, far, cosines=base)

    def test_where_much_is_as_near_it_need_not_lead(self):
        found = with_others(passage(LEASE, dense=0.9), 0.895)

        assert judged(self.QUESTION, *found, cosines=around(0.86))

    @pytest.mark.parametrize(
        ("fifth", "tenth", "relevant"),
        [(0.84, 0.84, False), (0.99, 0.84, True), (0.99, 0.7, False)],
    )
    def test_how_near_a_base_is_the_fifth_to_tenth_chunks_say(
        self, fifth, tenth, relevant
    ):
        found = with_others(passage(LEASE, dense=0.9), 0.895)
        cosines = around(0.5)
        cosines[3:13] = [tenth, *[0.84] * 4, fifth, *[0.99] * 4]

        assert judged(self.QUESTION, *found, cosines=cosines) == relevant

    def test_copies_of_it_are_not_what_it_has_to_lead(self):
        best, *others = with_others(passage(LEASE, dense=0.87), 0.8)
        versions = [
            passage(LEASE + "本条自公布之日起施行。", dense=0.869),
            passage(LEASE[:13], dense=0.868),
        ]
        rivals = [passage(text, dense=0.868) for text in OTHERS]

        base = around(0.8)
        assert judged(self.QUESTION, best, *versions, *others, cosines=base)
        assert not judged(self.QUESTION, best, *rivals, *others, cosines=base)

    def test_where_all_are_copies_it_leads_the_last(self):
        copies = [passage(LEASE + "。" * n, dense=0.86 - n / 20) for n in range(3)]

        assert judged(self.QUESTION, *copies, cosines=around(0.78))
        assert not judged(self.QUESTION, *copies, cosines=around(0.74))

    def test_a_longer_passage_must_stand_out_more(self):
        long = passage(LEASE * 20, dense=0.86)

        base = around(0.8)
        assert not judged(self.QUESTION, *with_others(long, 0.8), cosines=base)
        much = passage(LEASE * 20, dense=0.91)
        assert judged(self.QUESTION, *with_others(much, 0.8), cosines=base)

    def test_in_words_less_is_to_be_reached(self):
        question = "Where does it sleep?"
        found = [
            passage(SWIFTS, dense=0.8),
            passage("Photosynthesis needs light.", dense=0.74),
            passage("Fry the sugar first.", dense=0.74),
        ]

        assert judged(question, *found, cosines=around(0.8))
        assert not judged(question, *found, cosines=around(0.77))

    def test_a_number_is_found_that_is_in_every_passage(self):
        found = [passage(f"ERR-4711: {n}", dense=0.76) for n in "一二三"]

        assert judged("ERR-4711?", *found, cosines=around(0.75))
        assert not judged("ERR-4712?", *found, cosines=around(0.75))

    @pytest.mark.parametrize(
        ("content", "relevant"),
        [
            ("Ospreys hover. They dive deep.", False),
            ("Ospreys hover, dive deep.", True),
        ],
    )
    def test_a_sentence_that_holds_the_question_counts(self, content, relevant):
        found = [
            passage(content, dense=0.75),
            passage("Photosynthesis needs light.", dense=0.74),
            passage("Fry the sugar first.", dense=0.74),
        ]

        asked = judged("Ospreys hover, dive deep?", *found, cosines=around(0.68))

        assert asked == relevant

    def test_what_keywords_alone_found_is_as_near_as_the_last_that_is_told(self):
        """Its cosine is not told; at 0, it would be led by far."""
        best, *_ = with_others(passage(LEASE, dense=0.83), 0)
        untold = [passage(content, dense=0) for content in OTHERS]

        assert not judged(self.QUESTION, best, *untold, cosines=around(0.8, chunks=200))

    def test_of_fewer_passages_or_chunks_it_is_not_asked(self):
        near = with_others(passage(LEASE, dense=0.9), 0.895)

        assert judged(self.QUESTION, *near[:2], cosines=around(0.8))
        assert judged(self.QUESTION, *near, cosines=around(0.8, chunks=9))
        assert not judged(self.QUESTION, *near, cosines=around(0.8, chunks=10))

    @pytest.mark.parametrize("model", ["local-ngram", "embedding-3"])
    def test_of_other_models_it_is_not_asked(self, model):
        found = with_others(passage(LEASE, dense=0.3), 0.295)

        assert judged(self.QUESTION, *found, model=model, cosines=around(0.1))

    def test_another_script_is_not_judged_by_it(self):
        found = with_others(passage(SWIFTS, dense=0.8), 0.8)

        assert judged("雨燕一生在哪里度过?", *found, cosines=around(0.8))

    @pytest.mark.parametrize(("angle", "relevant"), [(0.5, True), (0.66, False)])
    def test_a_search_compares_with_its_base(self, database, angle, relevant):
        """The base's other chunks are all at a cosine of .78, the best one nearer."""
        knowledge = Knowledge(Providers(settings.CONFIG), config=settings.CONFIG)
        base = base_with(
            [(LEASE, angle), *((f"{content}{n}", 0.676) for n, content in TWENTY)]
        )

        findings = knowledge.search(
            base=base,
            readings=readings(self.QUESTION, before=[]),
            vectors=[at_angle(0)],
            top_k=5,
        )

        assert findings.passages[0].content == LEASE
        assert findings.relevant == relevant


TWENTY = [(n, OTHERS[n % 2]) for n in range(20)]


def at_angle(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def base_with(chunks: list[tuple[str, float]]) -> Base:
    """A base of `local-e5`: each text a document, at an angle from the question."""
    base = KnowledgeBase.objects.create(
        owner=make_user("alice"),
        name="base",
        embedding_model="local-e5",
        dimension=2,
        created_at=timezone.now(),
    )
    for text, angle in chunks:
        document = Document.objects.create(
            knowledge_base=base,
            name="a.txt",
            type="txt",
            sha256=uuid.uuid4().hex * 2,
            embedding_model=base.embedding_model,
            status="ready",
            created_at=timezone.now(),
        )
        Chunk.objects.create(
            document=document,
            ordinal=0,
            text=text,
            start=0,
            end=len(text),
            embedding=pack(at_angle(angle)),
            terms=pack_terms(text),
        )
    changed(base.pk)
    base.refresh_from_db()
    return Base.of(base)


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
