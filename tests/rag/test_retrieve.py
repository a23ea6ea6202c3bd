"""POST /api/rag/retrieve, over real HTTP."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rag.indexes import Indexes
from rag.models import KnowledgeBase
from tests.conftest import Client, Served
from tests.fake_provider import Script, refusal
from tests.rag.embeddings import (
    BIRDS,
    STATUTE,
    Embeddings,
    added,
    bilingual,
    found,
    is_refused,
    make_base,
    retrieve,
    upload,
)
from tests.rag.kept import Kept, kept, put_into

FACTS = "\n\n".join(
    f"# Fact {n}\n\nOf all numbers the number {n} is known as {parity}."
    for n, parity in enumerate(["even", "odd"] * 15)
)
MODES = ("hybrid", "dense", "keyword")


class TestResults:
    def test_they_are_the_documented_ones(self, as_alice: Client, base: str) -> None:
        document = added(as_alice, base, name="合同协议.txt")

        body = retrieve(as_alice, base, "什么是不可抗力条款?", top_k=1).json()

        assert list(body) == ["success", "results", "message"]
        assert (body["success"], body["message"]) == (True, "检索成功")
        [best] = body["results"]
        assert list(best)[:4] == ["content", "score", "doc_id", "doc_name"]
        assert "不可抗力" in best["content"]
        assert isinstance(best["score"], float)
        assert (best["doc_id"], best["doc_name"]) == (document, "合同协议.txt")
        assert set(best["scores"]) == {"dense", "keyword"}
        assert best["content"] == STATUTE[best["start"] : best["end"]]
        assert best["page"] is None
        assert best["heading_path"] == []
        assert len(best["chunk_ids"]) >= 1

    @pytest.mark.parametrize("mode", MODES)
    def test_scores_fall_from_at_most_one_to_at_least_nought(
        self, as_alice: Client, base: str, mode: str
    ) -> None:
        added(as_alice, base, FACTS, name="facts.md")

        passages = found(as_alice, base, "even number 4", mode=mode, top_k=50)

        scores = [passage["score"] for passage in passages]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert "number 4 " in passages[0]["content"]

    @pytest.mark.parametrize(("sent", "most"), [({}, 5), ({"top_k": 3}, 3)])
    def test_there_are_five_or_as_many_as_asked(
        self, as_alice: Client, base: str, sent: dict[str, int], most: int
    ) -> None:
        added(as_alice, base, FACTS, name="facts.md")

        # The facts stand far enough from each other not to be joined.
        assert len(found(as_alice, base, "even 2 8 14 20 26", **sent)) == most

    def test_headings_are_told(self, as_alice: Client, base: str) -> None:
        added(as_alice, base, FACTS, name="facts.md")

        best = found(as_alice, base, "number 17", top_k=1)[0]

        assert best["heading_path"] == ["Fact 17"]

    def test_a_base_without_documents_has_none(
        self, as_alice: Client, base: str
    ) -> None:
        body = retrieve(as_alice, base, "不可抗力").json()

        assert body == {"success": True, "results": [], "message": "检索成功"}

    def test_a_base_whose_documents_went_has_none(
        self, as_alice: Client, base: str
    ) -> None:
        document = added(as_alice, base)
        as_alice.post("/api/rag/doc/delete", json={"kb_id": base, "doc_id": document})

        assert found(as_alice, base, "不可抗力") == []

    @pytest.mark.parametrize("mode", MODES)
    def test_a_question_without_words_has_none(
        self, as_alice: Client, base: str, mode: str
    ) -> None:
        added(as_alice, base)

        assert found(as_alice, base, "?!", mode=mode) == []

    def test_a_text_is_shown_once_however_many_documents_have_it(
        self, as_alice: Client, base: str
    ) -> None:
        added(as_alice, base, "Storks have no voice.")
        added(as_alice, base, "Storks have no voice.\n")
        added(as_alice, base, BIRDS.splitlines()[0])

        passages = found(as_alice, base, "storks")

        assert len(passages) == len({p["content"] for p in passages}) == 2

    def test_only_the_base_that_is_asked_is_searched(
        self, as_alice: Client, base: str
    ) -> None:
        added(as_alice, base, BIRDS)
        other = make_base(as_alice)
        added(as_alice, other)

        texts = [p["content"] for p in found(as_alice, base, "不可抗力 swallows")]

        assert texts
        assert not any("不可抗力" in text for text in texts)

    @pytest.mark.parametrize("mode", ["hybrid", "dense", "keyword"])
    def test_a_word_that_no_document_has_finds_none_by_chance(
        self, as_alice: Client, base: str, mode: str
    ) -> None:
        for text in ("Swallows leave.", "Storks clatter with bills.", "Cranes dance."):
            added(as_alice, base, text)

        # Its n-gram and that of "leave" fall together, against each other.
        assert found(as_alice, base, "zork41", mode=mode) == []


class TestChanges:
    def test_a_document_is_found_as_soon_as_it_is_there(
        self, as_alice: Client, base: str
    ) -> None:
        added(as_alice, base)
        assert "Swallows" not in str(found(as_alice, base, "swallows"))

        added(as_alice, base, BIRDS, name="birds.txt")

        assert found(as_alice, base, "swallows")[0]["doc_name"] == "birds.txt"

    def test_questions_while_documents_come_and_go_are_all_answered(
        self, as_alice: Client, base: str
    ) -> None:
        added(as_alice, base, BIRDS)

        def change(number: int) -> int:
            document = added(as_alice, base, f"Number {number}. " + STATUTE)
            body = {"kb_id": base, "doc_id": document}
            return as_alice.post("/api/rag/doc/delete", json=body).status_code

        def ask(number: int) -> int:
            return retrieve(as_alice, base, "swallows 不可抗力").status_code

        with ThreadPoolExecutor(6) as pool:
            changes = [pool.submit(change, n) for n in range(4)]
            questions = [pool.submit(ask, n) for n in range(40)]
            statuses = {future.result() for future in changes + questions}

        assert statuses == {200}
        assert "不可抗力" not in str(found(as_alice, base, "不可抗力"))


NO_INTEGERS: tuple[Any, ...] = ("5", 5.0, 1.5, True, None, [], {})
NO_QUESTIONS: tuple[Any, ...] = (None, "", "  ", 7, [], "x" * 10_001, "\x00")
NO_MODES: tuple[Any, ...] = ("fast", "", None, 7, [])


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "fields",
        [
            *[{"top_k": k} for k in (0, 51, -1, 2**70)],
            *[{"top_k": k} for k in NO_INTEGERS],
            *[{"query": q} for q in NO_QUESTIONS],
            *[{"mode": m} for m in NO_MODES],
        ],
        ids=lambda fields: repr(fields)[:24],
    )
    def test_a_field_out_of_bounds_is_a_400(
        self, as_alice: Client, base: str, fields: dict[str, Any]
    ) -> None:
        body = {"kb_id": base, "query": "x", **fields}

        response = as_alice.post("/api/rag/retrieve", json=body)

        is_refused(response, 400, "invalid")

    @pytest.mark.parametrize("top_k", [1, 50])
    def test_the_bounds_are_allowed(
        self, as_alice: Client, base: str, top_k: int
    ) -> None:
        assert found(as_alice, base, "x", top_k=top_k) == []

    def test_an_unknown_base_is_a_404(self, as_alice: Client) -> None:
        is_refused(retrieve(as_alice, str(uuid.uuid4()), "x"), 404, "not_found")


class TestARemoteModel:
    def test_the_question_is_embedded_and_the_nearest_found(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        added(as_alice, remote_base)

        best = found(as_alice, remote_base, "租赁期限 二十年", top_k=1)[0]

        assert "租赁期限" in best["content"]
        assert 0 < best["scores"]["dense"] <= 1
        assert embeddings.requests[-1]["input"] == ["租赁期限 二十年"]

    def test_without_need_the_provider_is_not_asked(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        assert found(as_alice, remote_base, "不可抗力") == []
        assert not embeddings.requests
        added(as_alice, remote_base)
        embedded = len(embeddings.requests)

        assert found(as_alice, remote_base, "不可抗力", mode="keyword")

        assert len(embeddings.requests) == embedded

    @pytest.mark.parametrize(
        ("script", "status", "code"),
        [
            (refusal(401), 502, "provider_auth"),
            (refusal(500), 502, "provider_error"),
            (Script(body=b"{"), 502, "provider_protocol"),
            (refusal(429), 503, "provider_busy"),
            (Script(stall_at_headers=True), 504, "provider_timeout"),
        ],
    )
    def test_its_failure_is_a_status(
        self,
        as_alice: Client,
        remote_base: str,
        embeddings: Embeddings,
        impatient: None,
        script: Script,
        status: int,
        code: str,
    ) -> None:
        added(as_alice, remote_base)
        embeddings.before = lambda number: script

        response = retrieve(as_alice, remote_base, "不可抗力")

        is_refused(response, status, code)
        if status == 503:
            assert int(response.headers["Retry-After"]) > 0

    def test_a_long_question_is_embedded_in_part_and_looked_up_in_whole(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        added(as_alice, remote_base, BIRDS)
        question = f"Why do storks {'x ' * 2_000}clatter {'x ' * 2_000}with bills?"

        best, *_ = found(as_alice, remote_base, question)

        assert best["scores"]["keyword"] > 0
        sent = embeddings.texts[-1]
        assert len(sent) == 2_000
        assert sent.startswith("Why do storks x")
        assert sent.endswith("x with bills?")

    def test_is_told_at_once_where_the_provider_says_to_come_back_later(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        added(as_alice, remote_base)
        later = refusal(429, headers={"Retry-After": "45"})
        asked = len(embeddings.requests)
        embeddings.before = lambda number: later

        response = retrieve(as_alice, remote_base, "不可抗力")

        is_refused(response, 503, "provider_busy")
        assert response.headers["Retry-After"] == "45"
        assert len(embeddings.requests) == asked + 1

    def test_vectors_of_another_size_are_a_409(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        added(as_alice, remote_base)
        embeddings.dimension = 32

        response = retrieve(as_alice, remote_base, "不可抗力")

        is_refused(response, 409, "dimension_changed")

    def test_a_model_that_is_configured_no_more_is_a_400(
        self, as_alice: Client, remote_base: str
    ) -> None:
        added(as_alice, remote_base)
        KnowledgeBase.objects.update(embedding_model="withdrawn-1")

        is_refused(retrieve(as_alice, remote_base, "x"), 400, "unknown_embedding_model")
        is_refused(upload(as_alice, remote_base, "x"), 400, "unknown_embedding_model")
        assert found(as_alice, remote_base, "不可抗力", mode="keyword")


@pytest.fixture(scope="module")
def uploads() -> list[Kept]:
    """The documents in two languages, once they were uploaded."""
    return []


class TestABaseInTwoLanguages:
    """Half of what it holds is in Chinese, and half in English."""

    TEXTS = (
        "雨燕几乎一生都在空中度过。",
        "鹳没有声音,用喙发出声响。",
        "A lease may not last longer than twenty years.",
        "The rent is due on the first of the month.",
    )

    @pytest.fixture
    def bilingual_base(
        self,
        as_alice: Client,
        remote_base: str,
        embeddings: Embeddings,
        uploads: list[Kept],
    ) -> str:
        embeddings.vector = bilingual
        if uploads:
            put_into(remote_base, uploads[0])
            return remote_base
        for number, text in enumerate(self.TEXTS):
            added(as_alice, remote_base, text, name=f"{number}.txt")
        uploads.append(kept(remote_base))
        return remote_base

    @pytest.mark.parametrize("budget", [1 << 30, 0])
    @pytest.mark.parametrize(
        ("question", "answer", "cosine"),
        [
            ("租期最长多久?", 2, 0.41),
            ("How do storks make themselves heard?", 1, 0.41),
            ("雨燕在哪里度过一生?", 0, 1),
            ("When is the rent due?", 3, 1),
        ],
    )
    def test_the_answer_is_found_in_either(
        self,
        server: Served,
        as_alice: Client,
        bilingual_base: str,
        budget: int,
        question: str,
        answer: int,
        cosine: float,
    ) -> None:
        knowledge = server.application.knowledge
        before, knowledge.indexes = knowledge.indexes, Indexes(budget=budget)
        try:
            passages = found(as_alice, bilingual_base, question)
        finally:
            knowledge.indexes = before

        assert passages[0]["content"] == self.TEXTS[answer]
        assert passages[0]["scores"]["dense"] == pytest.approx(cosine, abs=0.01)
        assert len(passages) == 4

    def test_by_meaning_alone_it_is_ranked_by_cosines(
        self, as_alice: Client, bilingual_base: str
    ) -> None:
        passages = found(as_alice, bilingual_base, "租期最长多久?", mode="dense")

        cosines = [passage["scores"]["dense"] for passage in passages]
        assert cosines == sorted(cosines, reverse=True)
        assert cosines[-1] < cosines[2] < cosines[0]


class TestABaseLargerThanTheMemory:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("model", ["local-ngram", "fake-embedding"])
    def test_it_is_searched_as_exactly(
        self,
        server: Served,
        as_alice: Client,
        embeddings: Embeddings,
        mode: str,
        model: str,
    ) -> None:
        base = make_base(as_alice, embedding_model=model)
        added(as_alice, base, FACTS, name="facts.md")
        added(as_alice, base, STATUTE)
        knowledge = server.application.knowledge
        in_memory = knowledge.indexes
        questions = ["even number 12", "不可抗力", "unheard-of words", "?!"]

        expected = [found(as_alice, base, q, mode=mode) for q in questions]
        knowledge.indexes = Indexes(budget=0)
        try:
            scanned = [found(as_alice, base, q, mode=mode) for q in questions]
        finally:
            knowledge.indexes = in_memory

        assert scanned == expected
        assert len(expected[0]) > 2
        assert expected[1]
