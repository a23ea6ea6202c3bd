"""A user's own knowledge bases; someone else's do not exist here."""

from __future__ import annotations

from typing import Any, cast

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import KB_READ, KB_WRITE
from accounts.models import User
from llmbackend.resource import Resource
from llmbackend.uploads import UploadParser
from rag import bases
from rag.embedding_models import embedding_models
from rag.ingestion import Upload, add_document
from rag.models import Document, KnowledgeBase
from rag.passages import Passage
from rag.retrieval import Knowledge, retrieve
from rag.serializers import (
    DocumentSerializer,
    KnowledgeBaseSerializer,
    NewKnowledgeBaseSerializer,
    QuestionSerializer,
    UploadSerializer,
)


def owner_of(request: Request) -> User:
    return cast(User, request.user)


def knowledge_of(request: Request) -> Knowledge:
    """What the serving process embeds and searches with."""
    found: Knowledge = request.scope["knowledge"]  # type: ignore[attr-defined]
    return found


def succeeded(message: str, **fields: Any) -> Response:
    """The seed's form of a RAG answer."""
    return Response({"success": True, **fields, "message": message})


class KnowledgeBaseViewSet(Resource):
    """Create, list and delete."""

    scopes = {"create": KB_WRITE, "list": KB_READ, "destroy": KB_WRITE}

    def create(self, request: Request) -> Response:
        asked = NewKnowledgeBaseSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        base = bases.create(
            owner=owner_of(request),
            name=asked.validated_data["kb_name"],
            embedding_model_name=asked.validated_data.get("embedding_model") or "",
            sizes=asked.sizes(),
        )
        return succeeded(
            f"知识库创建成功,使用模型: {base.embedding_model}",
            **as_base(base),
        )

    def list(self, request: Request) -> Response:
        mine = KnowledgeBase.objects.owned_by(owner_of(request))
        kbs = [as_base(base) for base in mine.order_by("created_at", "pk")]
        return succeeded("知识库列表获取成功", kbs=kbs)

    def destroy(self, request: Request) -> Response:
        asked = KnowledgeBaseSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        bases.delete(
            owner=owner_of(request), knowledge_base_id=asked.validated_data["kb_id"]
        )
        return succeeded("知识库删除成功")


class DocumentViewSet(Resource):
    """The documents of a knowledge base."""

    scopes = {"upload": KB_WRITE, "list": KB_READ, "destroy": KB_WRITE}

    def get_parsers(self) -> list[Any]:
        if self.request and self.request.path.rstrip("/").endswith("/upload"):
            return [UploadParser()]
        return super().get_parsers()

    def upload(self, request: Request) -> Response:
        asked = UploadSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        fields = asked.validated_data
        added = add_document(
            owner=owner_of(request),
            knowledge_base_id=fields["kb_id"],
            upload=Upload(
                name=fields["file"].name,
                encoding=fields.get("encoding", ""),
                file=fields["file"],
                key=request.headers.get("Idempotency-Key", ""),
            ),
            embedding=knowledge_of(request).embedding,
        )
        return succeeded(
            f"文档上传处理成功,共分割并添加 {added.chunks} 个文本块",
            doc_id=str(added.document_id),
            chunks=added.chunks,
            encoding=added.encoding,
            duplicate=added.duplicate,
        )

    def list(self, request: Request) -> Response:
        asked = KnowledgeBaseSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        mine = KnowledgeBase.objects.owned_by(owner_of(request))
        base = mine.fetch(asked.validated_data["kb_id"])
        ready = base.documents.filter(status=Document.Status.READY)
        docs = [
            {
                "doc_id": str(document.pk),
                "kb_id": str(base.pk),
                "doc_name": document.name,
                "file_type": document.type,
                "encoding": document.encoding,
                "chunks": document.chunks_total,
                "created_time": int(document.created_at.timestamp()),
            }
            for document in ready.order_by("created_at", "pk")
        ]
        return succeeded("文档列表获取成功", docs=docs)

    def destroy(self, request: Request) -> Response:
        asked = DocumentSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        bases.delete_document(
            owner=owner_of(request),
            knowledge_base_id=asked.validated_data["kb_id"],
            document_id=asked.validated_data["doc_id"],
        )
        return succeeded("文档删除成功")


class RetrievalViewSet(Resource):
    """Questions to a knowledge base, and the models that can embed one."""

    scopes = {"retrieve": KB_READ, "models": KB_READ}

    def retrieve(self, request: Request) -> Response:
        asked = QuestionSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        fields = asked.validated_data
        passages = retrieve(
            owner=owner_of(request),
            knowledge_base_id=fields["kb_id"],
            question=fields["query"],
            top_k=fields["top_k"],
            mode=fields["mode"],
            knowledge=knowledge_of(request),
        )
        return succeeded("检索成功", results=[as_result(found) for found in passages])

    def models(self, request: Request) -> Response:
        usable = embedding_models(settings.CONFIG)
        return succeeded(
            "支持的Embedding模型列表获取成功", models=[model.name for model in usable]
        )


def as_base(base: KnowledgeBase) -> dict[str, Any]:
    """A base as the seed shows it, and how its documents are cut."""
    return {
        "kb_id": str(base.pk),
        "kb_name": base.name,
        "embedding_model": base.embedding_model,
        "chunk_size_cjk": base.chunk_size_cjk,
        "chunk_size_latin": base.chunk_size_latin,
        "overlap_percent": base.overlap_percent,
    }


def as_result(passage: Passage) -> dict[str, Any]:
    """A passage as the seed shows it, and where it stands."""
    return {
        "content": passage.content,
        "score": passage.score,
        "doc_id": str(passage.document_id),
        "doc_name": passage.document_name,
        "scores": {"dense": passage.dense, "keyword": passage.keyword},
        "chunk_ids": list(passage.chunk_ids),
        "start": passage.start,
        "end": passage.end,
        "page": passage.page,
        "heading_path": list(passage.heading_path),
    }
