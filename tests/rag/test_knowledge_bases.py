"""/api/rag/kb/*, over real HTTP."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from rag.models import Chunk, Document, KnowledgeBase
from tests.conftest import Client
from tests.rag.embeddings import added, is_refused, make_base, retrieve, upload

NO_UUIDS: list[Any] = [
    *[None, 7, 7.5, True, "", "abc", [], {}, ["x"], "a1b2c3d4-5678-90ab-cdef"],
    "g1b2c3d4-5678-90ab-cdef-123456789abc",
    "\x00",
    "x" * 10_000,
]


SIZES = {"chunk_size_cjk": 400, "chunk_size_latin": 1100, "overlap_percent": 15}


class TestCreate:
    @pytest.mark.parametrize("model", [{}, {"embedding_model": None}])
    def test_without_a_model_the_default_is_taken(
        self, as_alice: Client, model: dict[str, Any]
    ) -> None:
        response = as_alice.post(
            "/api/rag/kb/create", json={"kb_name": "法律知识库", **model}
        )

        assert response.status_code == 200
        body = response.json()
        assert body["success"] is True
        assert body["message"] == "知识库创建成功,使用模型: local-ngram"
        assert body["kb_id"] == str(uuid.UUID(body["kb_id"]))
        base = KnowledgeBase.objects.get(pk=body["kb_id"])
        assert (base.name, base.owner.username) == ("法律知识库", "alice")

    def test_with_a_model_that_one_is_named(self, as_alice: Client) -> None:
        response = as_alice.post(
            "/api/rag/kb/create",
            json={"kb_name": "法律知识库", "embedding_model": "fake-embedding"},
        )

        assert response.json()["message"] == "知识库创建成功,使用模型: fake-embedding"

    @pytest.mark.parametrize("model", ["zhipu-embedding-9", "embed-3", "FAKE", "auto"])
    def test_an_unknown_model_is_a_400_that_names_the_known(
        self, as_alice: Client, model: str
    ) -> None:
        response = as_alice.post(
            "/api/rag/kb/create", json={"kb_name": "x", "embedding_model": model}
        )

        is_refused(response, 400, "unknown_embedding_model")
        assert "local-ngram" in response.json()["message"]
        assert not KnowledgeBase.objects.exists()

    @pytest.mark.parametrize(
        "body",
        [
            *[{}, {"kb_name": None}, {"kb_name": ""}, {"kb_name": "  "}],
            *[{"kb_name": 7}, {"kb_name": ["x"]}, {"kb_name": "x" * 501}],
            *[{"kb_name": "a\x00b"}, {"kb_name": "x", "embedding_model": 7}],
        ],
    )
    def test_a_body_without_a_name_is_a_400(
        self, as_alice: Client, body: dict[str, Any]
    ) -> None:
        is_refused(as_alice.post("/api/rag/kb/create", json=body), 400, "invalid")

    @pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff"])
    def test_a_body_that_is_no_object_is_a_400(
        self, as_alice: Client, content: bytes
    ) -> None:
        response = as_alice.post("/api/rag/kb/create", content=content)

        is_refused(response, 400, "invalid")

    def test_a_name_may_repeat(self, as_alice: Client) -> None:
        assert make_base(as_alice) != make_base(as_alice)


class TestChunkSizes:
    SMALL = {"chunk_size_cjk": 100, "chunk_size_latin": 300, "overlap_percent": 0}
    LARGE = {"chunk_size_cjk": 2000, "chunk_size_latin": 6000, "overlap_percent": 50}

    @pytest.mark.parametrize("sizes", [{}, SMALL, LARGE, {"overlap_percent": 30}])
    def test_those_that_are_asked_for_are_told_and_kept(
        self, as_alice: Client, sizes: dict[str, int]
    ) -> None:
        body = as_alice.post("/api/rag/kb/create", json={"kb_name": "x", **sizes})

        expected = {**SIZES, **sizes}
        assert {name: body.json()[name] for name in SIZES} == expected
        [listed] = as_alice.get("/api/rag/kb/list").json()["kbs"]
        assert {name: listed[name] for name in SIZES} == expected

    def test_documents_are_cut_by_them(self, as_alice: Client) -> None:
        article = "不可抗力是不能预见、不能避免且不能克服的客观情况。" * 20

        counts = [
            upload(as_alice, make_base(as_alice, **sizes), article).json()["chunks"]
            for sizes in (self.SMALL, {}, self.LARGE)
        ]

        assert counts == [5, 2, 1]

    @pytest.mark.parametrize("name", SIZES)
    @pytest.mark.parametrize("value", ["400", 400.0, True, None, [], -1, 6001, 2**70])
    def test_one_out_of_bounds_is_a_400(
        self, as_alice: Client, name: str, value: Any
    ) -> None:
        body = {"kb_name": "x", name: value}

        is_refused(as_alice.post("/api/rag/kb/create", json=body), 400, "invalid")
        assert not KnowledgeBase.objects.exists()

    @pytest.mark.parametrize(
        "sizes",
        [
            *[{"chunk_size_cjk": 99}, {"chunk_size_cjk": 2001}],
            *[{"chunk_size_latin": 299}, {"overlap_percent": 51}],
        ],
    )
    def test_the_bounds_are_those_documented(
        self, as_alice: Client, sizes: dict[str, int]
    ) -> None:
        body = {"kb_name": "x", **sizes}

        is_refused(as_alice.post("/api/rag/kb/create", json=body), 400, "invalid")


class TestList:
    def test_it_is_empty_at_first(self, as_alice: Client) -> None:
        response = as_alice.get("/api/rag/kb/list")

        assert response.status_code == 200
        assert response.json() == {
            "success": True,
            "kbs": [],
            "message": "知识库列表获取成功",
        }

    def test_it_names_ones_own_in_their_order(
        self, as_alice: Client, as_mallory: Client
    ) -> None:
        first = make_base(as_alice, kb_name="法律知识库")
        make_base(as_mallory)
        second = make_base(
            as_alice, kb_name="技术文档知识库", embedding_model="fake-embedding"
        )

        assert as_alice.get("/api/rag/kb/list").json()["kbs"] == [
            {
                "kb_id": first,
                "kb_name": "法律知识库",
                "embedding_model": "local-ngram",
                **SIZES,
            },
            {
                "kb_id": second,
                "kb_name": "技术文档知识库",
                "embedding_model": "fake-embedding",
                **SIZES,
            },
        ]


class TestDelete:
    def test_it_removes_all_that_was_in_it(self, as_alice: Client, base: str) -> None:
        added(as_alice, base)
        kept = make_base(as_alice)
        added(as_alice, kept)

        response = as_alice.post("/api/rag/kb/delete", json={"kb_id": base})

        assert response.status_code == 200
        assert response.json() == {"success": True, "message": "知识库删除成功"}
        assert [str(b.pk) for b in KnowledgeBase.objects.all()] == [kept]
        assert [str(d.knowledge_base_id) for d in Document.objects.all()] == [kept]
        assert Chunk.objects.exists()
        assert not Chunk.objects.exclude(document__in=Document.objects.all()).exists()

    def test_afterwards_it_does_not_exist(self, as_alice: Client, base: str) -> None:
        added(as_alice, base)
        assert retrieve(as_alice, base, "不可抗力").status_code == 200

        as_alice.post("/api/rag/kb/delete", json={"kb_id": base})

        again = as_alice.post("/api/rag/kb/delete", json={"kb_id": base})
        is_refused(again, 404, "not_found")
        is_refused(retrieve(as_alice, base, "不可抗力"), 404, "not_found")
        listed = as_alice.get("/api/rag/doc/list", params={"kb_id": base})
        is_refused(listed, 404, "not_found")


class TestIds:
    @pytest.mark.parametrize("kb_id", NO_UUIDS, ids=lambda kb_id: repr(kb_id)[:20])
    @pytest.mark.parametrize(
        ("path", "rest"),
        [
            ("kb/delete", {}),
            ("doc/delete", {"doc_id": str(uuid.uuid4())}),
            ("retrieve", {"query": "x"}),
            ("chat", {"message": "x", "conversation_id": 7}),
        ],
    )
    def test_one_that_is_no_uuid_is_a_400(
        self, as_alice: Client, path: str, rest: dict[str, Any], kb_id: Any
    ) -> None:
        response = as_alice.post(f"/api/rag/{path}", json={"kb_id": kb_id, **rest})

        is_refused(response, 400, "invalid")

    @pytest.mark.parametrize("path", ["kb/delete", "doc/delete", "retrieve", "chat"])
    def test_none_is_a_400(self, as_alice: Client, path: str) -> None:
        body = {"query": "x", "message": "x", "conversation_id": 7}

        is_refused(as_alice.post(f"/api/rag/{path}", json=body), 400, "invalid")

    @pytest.mark.parametrize("query", ["", "?kb_id=", "?kb_id=abc", "?kb_id=%00"])
    def test_in_the_query_too(self, as_alice: Client, query: str) -> None:
        is_refused(as_alice.get(f"/api/rag/doc/list{query}"), 400, "invalid")


class TestModels:
    def test_it_lists_what_can_be_used_now(self, as_alice: Client) -> None:
        body = as_alice.get("/api/rag/models").json()

        assert list(body) == ["success", "models", "message"]
        assert body["success"] is True
        assert body["message"] == "支持的Embedding模型列表获取成功"
        assert body["models"][0] == "fake-embedding"
        assert body["models"][-1] == "local-ngram"

    def test_each_of_them_can_be_named(self, as_alice: Client) -> None:
        for model in as_alice.get("/api/rag/models").json()["models"]:
            make_base(as_alice, embedding_model=model)
