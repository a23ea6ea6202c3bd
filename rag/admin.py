"""Knowledge bases and documents in the admin: read-only, but for deletion."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from llmbackend.readonly_admin import ReadOnlyAdmin
from rag import bases
from rag.bases import remove_document
from rag.models import Document, KnowledgeBase


@admin.register(KnowledgeBase)
class KnowledgeBaseAdmin(ReadOnlyAdmin):
    list_display = [
        "id",
        "name",
        "owner",
        "embedding_model",
        "document_count",
        "created_at",
    ]
    list_select_related = ["owner"]
    search_fields = ["=id", "name", "owner__username"]
    list_filter = ["embedding_model"]
    fields = [
        *["id", "name", "owner", "embedding_model", "dimension", "version"],
        *["chunk_size_cjk", "chunk_size_latin", "overlap_percent", "created_at"],
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[KnowledgeBase]:
        ready = Count("documents", filter=Q(documents__status=Document.Status.READY))
        return KnowledgeBase.objects.annotate(document_count=ready)

    def delete_model(self, request: HttpRequest, obj: KnowledgeBase) -> None:
        bases.remove(obj, by=request.user.pk)

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[KnowledgeBase]
    ) -> None:
        for base in queryset:
            bases.remove(base, by=request.user.pk)

    @admin.display(description=_("documents"), ordering="document_count")
    def document_count(self, base: Any) -> int:
        return base.document_count


@admin.register(Document)
class DocumentAdmin(ReadOnlyAdmin):
    list_display = [
        *["id", "name", "knowledge_base", "type", "status", "stage", "error_code"],
        *["chunks_done", "chunks_total", "size_bytes", "created_at"],
    ]
    list_select_related = ["knowledge_base"]
    search_fields = ["=id", "name", "=knowledge_base__id"]
    list_filter = ["status", "type"]
    fields = [
        *["id", "name", "knowledge_base", "type", "encoding", "embedding_model"],
        *["status", "stage", "error_code", "chunks_done", "chunks_total"],
        *["size_bytes", "size_characters", "created_at", "ready_at"],
    ]

    def delete_model(self, request: HttpRequest, obj: Document) -> None:
        remove_document(obj, by=request.user.pk)

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[Document]
    ) -> None:
        for document in queryset:
            remove_document(document, by=request.user.pk)
