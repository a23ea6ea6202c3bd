"""Knowledge base paths."""

from django.urls import re_path

from rag.views import (
    DocumentViewSet as Documents,
    KnowledgeBaseViewSet as Bases,
    RetrievalViewSet as Retrieval,
)

urlpatterns = [
    re_path(r"^api/rag/kb/create/?$", Bases.as_view({"post": "create"})),
    re_path(r"^api/rag/kb/list/?$", Bases.as_view({"get": "list"})),
    re_path(r"^api/rag/kb/delete/?$", Bases.as_view({"post": "destroy"})),
    re_path(r"^api/rag/doc/upload/?$", Documents.as_view({"post": "upload"})),
    re_path(r"^api/rag/doc/list/?$", Documents.as_view({"get": "list"})),
    re_path(r"^api/rag/doc/delete/?$", Documents.as_view({"post": "destroy"})),
    re_path(r"^api/rag/retrieve/?$", Retrieval.as_view({"post": "retrieve"})),
    re_path(r"^api/rag/models/?$", Retrieval.as_view({"get": "models"})),
]
