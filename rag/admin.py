"""Knowledge bases and documents in the admin: read-only, but for deletion."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext, gettext_lazy as _

from accounts.content_admin import note_view, shows_contents
from accounts.models import User
from llmbackend.errors import LLMBackendError, error_of
from llmbackend.readonly_admin import ReadOnlyAdmin, counted
from rag import bases
from rag.bases import remove_document
from rag.highlighting import highlighted
from rag.models import Chunk, Document, KnowledgeBase
from rag.passages import Passage

CHUNKS_A_PAGE = 20
MODES = (
    ("hybrid", _("both")),
    ("dense", _("by meaning")),
    ("keyword", _("by words")),
)
# What only a document that is not being uploaded fails with.
FAILURES = {
    "interrupted": _("The server process ended before the document was ready."),
    "damaged": _("What was stored of the document was damaged."),
}


class TryOutForm(forms.Form):
    """A question to a knowledge base."""

    query = forms.CharField(label=_("Question"), max_length=10_000)
    mode = forms.ChoiceField(label=_("Search"), choices=MODES)
    top_k = forms.IntegerField(
        label=_("Passages"), min_value=1, max_value=50, initial=5
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A passage as the page shows it; without text where that is not allowed."""

    passage: Passage
    pieces: list[tuple[str, bool]] | None


class PageAdmin(ReadOnlyAdmin):
    """Rows that have a page of their own besides Django's."""

    def page_context(
        self, request: HttpRequest, obj: Any, title: str
    ) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": obj,
            "title": title,
            "shows_contents": shows_contents(),
        }

    def found_or_404(self, request: HttpRequest, pk: uuid.UUID) -> Any:
        obj = self.get_object(request, str(pk))
        if not self.has_view_permission(request, obj):
            raise PermissionDenied
        if obj is None:
            raise Http404
        return obj


@admin.register(KnowledgeBase)
class KnowledgeBaseAdmin(PageAdmin):
    list_display = [
        *["name", "owner", "embedding_model", "document_count", "created_at"],
    ]
    list_select_related = ["owner"]
    search_fields = ["name"]
    search_help_text = _("An id or a user name, whole; or part of a name.")
    fields = [
        *["id", "name", "owner", "embedding_model", "dimension", "version"],
        *["chunk_size_cjk", "chunk_size_latin", "overlap_percent", "created_at"],
    ]
    ordering = ["-created_at"]
    sortable_by = ["created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[KnowledgeBase]:
        rows = super().get_queryset(request).select_related("owner")
        return rows.annotate(document_count=counted(KnowledgeBase, "documents"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        pk = uuid_in(search_term)
        if pk is not None:
            found = queryset.filter(pk=pk)
        else:
            found, _distinct = super().get_search_results(
                request, queryset, search_term
            )
        user = User.objects.named(search_term.strip())
        # Anybody may be called like a base, or like an id.
        return (found if user is None else found | queryset.filter(owner=user)), False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.try_out)
        name = "rag_knowledgebase_try"
        return [path("<uuid:base_id>/try/", view, name=name), *super().get_urls()]

    def try_out(self, request: HttpRequest, base_id: uuid.UUID) -> HttpResponse:
        """Ask a base a question, as its owner would."""
        base = self.found_or_404(request, base_id)
        form = TryOutForm(request.POST or None, initial={"mode": "hybrid"})
        context = self.page_context(request, base, gettext("Try a question"))
        if form.is_valid():
            context["passages"] = self._answered(request, base, form)
        return TemplateResponse(request, "rag/try.html", {**context, "form": form})

    def _answered(
        self, request: HttpRequest, base: KnowledgeBase, form: TryOutForm
    ) -> list[Shown] | None:
        # It imports the SDK, which no command that only loads the admin is to wait for.
        from rag.retrieval import retrieve

        asked = form.cleaned_data
        try:
            found = retrieve(
                owner=base.owner,
                knowledge_base_id=base.pk,
                question=asked["query"],
                top_k=asked["top_k"],
                mode=asked["mode"],
                knowledge=request.scope["knowledge"],  # type: ignore[attr-defined]
            )
        except LLMBackendError as exc:
            form.add_error(None, gettext(str(exc)))
            return None
        if not shows_contents():
            return [Shown(passage=passage, pieces=None) for passage in found]
        note_view(request, base)
        return [
            Shown(passage=passage, pieces=highlighted(passage.content, asked["query"]))
            for passage in found
        ]

    def delete_model(self, request: HttpRequest, obj: KnowledgeBase) -> None:
        bases.remove(obj, by=request.user.pk)

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[KnowledgeBase]
    ) -> None:
        for base in queryset:
            bases.remove(base, by=request.user.pk)

    @admin.display(description=_("documents"))
    def document_count(self, base: Any) -> int:
        return base.document_count


@admin.register(Document)
class DocumentAdmin(PageAdmin):
    list_display = [
        *["name", "base", "status", "stage", "error_code", "chunks", "size_bytes"],
        "created_at",
    ]
    list_select_related = ["knowledge_base"]
    search_fields = ["name"]
    search_help_text = _(
        "The id of a document or base, or a user name; part of a name."
    )
    list_filter = ["status"]
    fields = [
        *["id", "name", "knowledge_base", "type", "encoding", "embedding_model"],
        *["status", "stage", "error_code", "reason", "chunks_done", "chunks_total"],
        *["size_bytes", "size_characters", "created_at", "ready_at"],
    ]
    ordering = ["-created_at"]
    sortable_by = ["created_at"]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        pk = uuid_in(search_term)
        if pk is not None:
            of_base = queryset.filter(knowledge_base=pk)
            found = of_base if of_base.exists() else queryset.filter(pk=pk)
        else:
            found, _distinct = super().get_search_results(
                request, queryset, search_term
            )
        user = User.objects.named(search_term.strip())
        if user is None:
            return found, False
        mine = KnowledgeBase.objects.filter(owner=user)
        return found | queryset.filter(knowledge_base__in=mine), False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.browse)
        name = "rag_document_chunks"
        return [
            path("<uuid:document_id>/chunks/", view, name=name),
            *super().get_urls(),
        ]

    def browse(self, request: HttpRequest, document_id: uuid.UUID) -> HttpResponse:
        """Look through the pieces that a document was cut into."""
        document = self.found_or_404(request, document_id)
        rows = Chunk.objects.filter(document=document).order_by("ordinal")
        hidden = () if shows_contents() else ("text", "heading_path")
        pages = Paginator(rows.defer("embedding", "terms", *hidden), CHUNKS_A_PAGE)
        page = pages.get_page(request.GET.get("page"))
        if shows_contents():
            note_view(request, document)
        context = self.page_context(request, document, gettext("Chunks"))
        return TemplateResponse(request, "rag/chunks.html", {**context, "page": page})

    def delete_model(self, request: HttpRequest, obj: Document) -> None:
        remove_document(obj, by=request.user.pk)

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[Document]
    ) -> None:
        for document in queryset:
            remove_document(document, by=request.user.pk)

    @admin.display(description=_("knowledge base"))
    def base(self, document: Document) -> str:
        return document.knowledge_base.name

    @admin.display(description=_("chunks"))
    def chunks(self, document: Document) -> str:
        return f"{document.chunks_done}/{document.chunks_total}"

    @admin.display(description=_("reason"))
    def reason(self, document: Document) -> str:
        if not document.error_code:
            return self.get_empty_value_display()
        own = FAILURES.get(document.error_code)
        return str(own or gettext(str(error_of(document.error_code))))


def uuid_in(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term.strip())
    except ValueError:
        return None
