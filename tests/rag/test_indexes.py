"""The search indexes of a process: built once, right at once, within a budget."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from rag.bases import changed, remove_document
from rag.dense import pack
from rag.indexes import (
    ROWS_AT_ONCE,
    TERMS,
    VECTORS,
    Asked,
    Base,
    Index,
    Indexes,
    ids_of,
    ready_chunks,
    stored,
)
from rag.models import Chunk, Document, KnowledgeBase
from rag.scanning import scanned
from rag.terms import pack_terms, question_terms
from tests.conftest import make_user

DIMENSION = 256
PLENTY = 1 << 30


@pytest.fixture
def owner(database: None) -> Any:
    return make_user("alice")


def filled(owner: Any, *, chunks: int = 20, documents: int = 1) -> KnowledgeBase:
    """A base of random vectors; chunk n holds the words "chunk" and its number."""
    base = KnowledgeBase.objects.create(
        owner=owner,
        name="base",
        embedding_model="fake-embedding",
        dimension=DIMENSION,
        created_at=timezone.now(),
    )
    for _ in range(documents):
        document(base, chunks=chunks)
    return base


def document(
    base: KnowledgeBase,
    *,
    chunks: int = 20,
    status: str = "ready",
    text: str = "chunk {}",
) -> Document:
    made = Document.objects.create(
        knowledge_base=base,
        name="a.txt",
        type="txt",
        sha256=uuid.uuid4().hex * 2,
        embedding_model=base.embedding_model,
        status=status,
        created_at=timezone.now(),
    )
    vectors = np.random.default_rng(made.pk.int % 1000).normal(size=(chunks, DIMENSION))
    Chunk.objects.bulk_create(
        Chunk(
            document=made,
            ordinal=n,
            text=text.format(n),
            start=n,
            end=n + 1,
            embedding=pack(vector.astype(np.float32)),
            terms=pack_terms(text.format(n)),
        )
        for n, vector in enumerate(vectors)
    )
    changed(base.pk)
    return made


def now(base: KnowledgeBase) -> Base:
    base.refresh_from_db()
    return Base.of(base)


def index_of(indexes: Indexes, base: KnowledgeBase) -> Index:
    index = indexes.get(now(base))
    assert index is not None
    return index


class TestAnIndex:
    def test_holds_the_ready_chunks_of_its_base_alone(self, owner: Any) -> None:
        base = filled(owner)
        filled(owner)
        document(base, status="processing")
        document(base, status="failed")

        index = index_of(Indexes(budget=PLENTY), base)

        mine = Chunk.objects.filter(
            document__knowledge_base=base, document__status="ready"
        )
        assert index.ids.tolist() == list(
            mine.order_by("pk").values_list("pk", flat=True)
        )
        assert index.dense.matrix.shape == (20, DIMENSION)

    def test_is_the_same_until_its_base_changes(self, owner: Any) -> None:
        indexes, base = Indexes(budget=PLENTY), filled(owner)

        assert index_of(indexes, base) is index_of(indexes, base)

    def test_is_another_after_an_upload_and_after_a_deletion(self, owner: Any) -> None:
        indexes, base = Indexes(budget=PLENTY), filled(owner)
        before = index_of(indexes, base)

        added = document(base)
        after = index_of(indexes, base)
        remove_document(added, by=1)
        again = index_of(indexes, base)

        assert [len(i.ids) for i in (before, after, again)] == [20, 40, 20]
        assert before.ids.tolist() == again.ids.tolist()

    def test_of_a_base_that_went_is_empty(self, owner: Any) -> None:
        base = filled(owner)
        asked = now(base)
        base.delete()

        index = Indexes(budget=PLENTY).get(asked)

        assert index is not None
        assert len(index.ids) == 0

    def test_is_read_in_parts_of_any_size(self, owner: Any) -> None:
        base = filled(owner, chunks=ROWS_AT_ONCE * 2 + 100)

        index = index_of(Indexes(budget=PLENTY), base)

        row = ROWS_AT_ONCE + 1
        chunk = Chunk.objects.get(pk=int(index.ids[row]))
        assert index.dense.matrix[row].tobytes() == bytes(chunk.embedding)
        scores = index.keyword.scores(question_terms(str(chunk.ordinal)))
        assert int(scores.argmax()) == row

    def test_is_read_whatever_lies_between_its_rows(self, owner: Any) -> None:
        base, other = filled(owner), filled(owner)
        document(base, chunks=5)
        document(other, chunks=5)
        document(base)

        index = index_of(Indexes(budget=PLENTY), base)

        chunks = ready_chunks(base.pk).order_by("pk")
        vectors = [bytes(chunk.embedding) for chunk in chunks]
        assert [row.tobytes() for row in index.dense.matrix] == vectors
        scores = index.keyword.scores(question_terms("chunk 3"))
        found = chunks.filter(ordinal=3).values_list("pk", flat=True)
        assert index.ids[scores == scores.max()].tolist() == list(found)

    def test_leaves_empty_what_is_deleted_while_it_is_read(self, owner: Any) -> None:
        base = filled(owner, documents=2)
        ids = ids_of(base.pk)
        remove_document(Document.objects.filter(knowledge_base=base)[0], by=1)

        [terms] = stored(TERMS, ids)

        kept = set(ready_chunks(base.pk).values_list("pk", flat=True))
        there = [bool(row) for row in terms]
        assert there == [pk in kept for pk in ids.tolist()]
        assert sum(there) == 20

    def test_is_read_from_the_bases_own_rows(self, owner: Any) -> None:
        base = filled(owner)
        if connection.vendor != "sqlite":
            pytest.skip("the plan is SQLite's")

        plan = ready_chunks(base.pk).order_by("pk").values_list("pk").explain()

        assert "SEARCH rag_document USING" in plan
        assert "SCAN rag_chunk" not in plan


class TestManyAtOnce:
    def test_it_is_built_once(self, owner: Any) -> None:
        indexes, base = Indexes(budget=PLENTY), now(filled(owner, chunks=500))
        together = threading.Barrier(8)

        def get() -> int:
            together.wait()
            try:
                return id(indexes.get(base))
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(get) for _ in range(8)]
            built = {future.result() for future in futures}

        assert len(built) == 1


class TestTheBudget:
    def test_the_least_recently_used_goes_first(self, owner: Any) -> None:
        bases = [filled(owner) for _ in range(3)]
        one = index_of(Indexes(budget=PLENTY), bases[0]).nbytes
        indexes = Indexes(budget=int(one * 2.5))
        first, second = (index_of(indexes, base) for base in bases[:2])

        assert index_of(indexes, bases[0]) is first
        index_of(indexes, bases[2])

        assert indexes.nbytes <= one * 2.5
        assert index_of(indexes, bases[0]) is first
        assert index_of(indexes, bases[1]) is not second

    def test_a_base_over_the_whole_of_it_has_none(self, owner: Any) -> None:
        base = filled(owner)
        kept = filled(owner, chunks=1)
        indexes = Indexes(budget=20 * DIMENSION * 4)
        small = index_of(indexes, kept)

        assert indexes.get(now(base)) is None
        assert indexes.get(now(base)) is None

        assert index_of(indexes, kept) is small

    @pytest.mark.parametrize(
        ("budget", "read"),
        [(20 * DIMENSION * 4 - 1, []), (20 * DIMENSION * 4, [TERMS])],
    )
    def test_no_more_is_read_of_it_than_shows_that(
        self, owner: Any, budget: int, read: list[Any]
    ) -> None:
        base, indexes = now(filled(owner)), Indexes(budget=budget)

        with CaptureQueriesContext(connection) as asked:
            assert indexes.get(base) is None

        columns = {TERMS: '"terms"', VECTORS: '"embedding"'}
        seen = " ".join(each["sql"] for each in asked)
        assert [each for each in columns if columns[each] in seen] == read

    def test_it_has_one_again_when_it_fits(self, owner: Any) -> None:
        base = filled(owner, documents=2)
        one = index_of(Indexes(budget=PLENTY), filled(owner)).nbytes
        indexes = Indexes(budget=int(one * 1.5))
        assert indexes.get(now(base)) is None

        remove_document(Document.objects.filter(knowledge_base=base)[0], by=1)

        assert len(index_of(indexes, base).ids) == 20

    def test_one_that_grows_beyond_it_is_let_go(self, owner: Any) -> None:
        base = filled(owner)
        one = index_of(Indexes(budget=PLENTY), base).nbytes
        indexes = Indexes(budget=int(one * 1.5))
        index_of(indexes, base)

        document(base)

        assert indexes.get(now(base)) is None
        assert indexes.nbytes == 0


class TestScanning:
    def test_it_says_what_the_index_says(self, owner: Any) -> None:
        base = filled(owner, chunks=4100)
        document(base, chunks=30, text="第{}章")
        index = index_of(Indexes(budget=PLENTY), base)
        asked = Asked(
            text="chunk 7",
            terms=question_terms("chunk 7 unheard"),
            vector=index.dense.matrix[3],
        )

        [scored], kept = scanned(now(base), [asked]), index.scored(asked)

        assert scored.dense is not None
        assert kept.dense is not None
        np.testing.assert_array_equal(scored.ids, kept.ids)
        np.testing.assert_allclose(scored.dense, kept.dense, atol=1e-6)
        np.testing.assert_array_equal(scored.keyword, kept.keyword)
        assert scored.bias is not None
        assert kept.bias is not None
        np.testing.assert_array_equal(scored.bias.unspaced, kept.bias.unspaced)
        np.testing.assert_allclose(
            scored.bias.centrality, kept.bias.centrality, atol=1e-6
        )
        assert scored.bias.lift == pytest.approx(kept.bias.lift, abs=1e-6)
        assert scored.bias.lift is not None
        np.testing.assert_array_equal(
            scored.index.idf(asked.terms), kept.index.idf(asked.terms)
        )
        share = scored.index.known_share(asked.terms)
        assert share == kept.index.known_share(asked.terms) > 0

    def test_it_answers_several_questions_at_once(self, owner: Any) -> None:
        base = filled(owner, chunks=50)
        index = index_of(Indexes(budget=PLENTY), base)
        asked = [
            Asked(text=text, terms=question_terms(text), vector=index.dense.matrix[row])
            for text, row in (("chunk 7", 3), ("chunk 9", 5))
        ]

        for scored, each in zip(scanned(now(base), asked), asked, strict=True):
            kept = index.scored(each)
            assert scored.dense is not None
            assert kept.dense is not None
            np.testing.assert_array_equal(scored.terms, each.terms)
            np.testing.assert_allclose(scored.dense, kept.dense, atol=1e-6)
            np.testing.assert_array_equal(scored.keyword, kept.keyword)

    def test_of_an_empty_base_it_says_nothing(self, owner: Any) -> None:
        base = filled(owner, documents=0)
        asked = Asked(text="x", terms=question_terms("x"), vector=None)

        [scored] = scanned(now(base), [asked])

        assert len(scored.ids) == 0
