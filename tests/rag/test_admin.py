"""Knowledge bases and documents in the admin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client as Browser

from accounts.models import AuditEntry, User
from rag.models import Chunk, Document, KnowledgeBase
from tests.admin_browser import AdminBrowser, signed_in
from tests.conftest import PASSWORD, Client, Served

TEXT = "# Birds\n\nSwallows <b>fly</b> south in winter. 燕子冬天飞往南方。\n"


@pytest.fixture
def root(server: Served) -> User:
    return User.objects.create_superuser("root", password=PASSWORD)


@pytest.fixture
def browser(root: User) -> Browser:
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


@pytest.fixture
def over_http(server: Served, root: User) -> Any:
    """The same browser, before the served project."""
    with signed_in(server.base_url, "root", PASSWORD) as browser:
        yield browser


@pytest.fixture
def document(as_alice: Client) -> Document:
    base = as_alice.post("/api/rag/kb/create", json={"kb_name": "Law"}).json()
    given = {"file": ("birds.md", TEXT.encode())}
    data = {"kb_id": base["kb_id"]}
    as_alice.post("/api/rag/doc/upload", data=data, files=given).raise_for_status()
    return Document.objects.get()


@pytest.fixture
def contents(settings: Any) -> None:
    """Administrators may read what users wrote."""
    shown = replace(settings.CONFIG.admin, show_contents=True)
    settings.CONFIG = replace(settings.CONFIG, admin=shown)


def try_page(document: Document) -> str:
    return f"/admin/rag/knowledgebase/{document.knowledge_base_id}/try/"


def chunks_page(document: Document) -> str:
    return f"/admin/rag/document/{document.pk}/chunks/"


class TestTryingAQuestion:
    ASKED = {"query": "Where do swallows fly? 南方", "mode": "hybrid", "top_k": "3"}

    def test_shows_passages_with_both_scores_and_no_text(
        self, over_http: AdminBrowser, document: Document
    ) -> None:
        page = over_http.send(try_page(document), self.ASKED)

        assert "birds.md" in page
        assert page.count("By meaning") == page.count("By words") == 1
        assert "south" not in page
        assert not AuditEntry.objects.filter(action="viewed").exists()

    def test_where_it_is_allowed_the_text_is_marked_escaped_and_noted(
        self, over_http: AdminBrowser, document: Document, contents: None
    ) -> None:
        page = over_http.send(try_page(document), self.ASKED)

        assert "<mark>Swallows</mark>" in page
        assert "<mark>南方</mark>" in page
        assert "&lt;b&gt;<mark>fly</mark>&lt;/b&gt;" in page
        entry = AuditEntry.objects.get(action="viewed")
        assert entry.object_id == str(document.knowledge_base_id)

    def test_what_goes_wrong_is_told_on_the_page(
        self, over_http: AdminBrowser, document: Document
    ) -> None:
        KnowledgeBase.objects.update(embedding_model="no-longer-configured")

        page = over_http.send(try_page(document), self.ASKED)

        said = "“no-longer-configured” is no embedding model that works here"
        assert f'<div class="errornote">{said}' in page

    def test_takes_who_may_view_the_base(
        self, server: Served, document: Document
    ) -> None:
        User.objects.create_user("bob", password="x", is_staff=True)
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(User.objects.get(username="bob"))

        assert browser.get(try_page(document)).status_code == 403
        assert browser.get(chunks_page(document)).status_code == 403


class TestChunks:
    def test_are_shown_without_their_text(
        self, browser: Browser, document: Document
    ) -> None:
        page = browser.get(chunks_page(document)).content.decode()

        assert "Chunk 0" in page
        assert "south" not in page
        assert "Birds" not in page
        assert not AuditEntry.objects.filter(action="viewed").exists()

    def test_with_it_where_it_is_allowed_and_noted(
        self, browser: Browser, document: Document, contents: None
    ) -> None:
        page = browser.get(chunks_page(document)).content.decode()

        assert "Swallows &lt;b&gt;fly" in page
        assert AuditEntry.objects.get(action="viewed").object_id == str(document.pk)

    def test_of_no_document_are_not_there(self, browser: Browser) -> None:
        path = "/admin/rag/document/4b7c0000-0000-4000-8000-000000000000/chunks/"

        assert browser.get(path).status_code == 404


def test_a_base_is_deleted_with_its_documents(
    browser: Browser, document: Document
) -> None:
    page = f"/admin/rag/knowledgebase/{document.knowledge_base_id}/delete/"

    assert browser.get(page).status_code == 200
    assert browser.post(page, {"post": "yes"}).status_code == 302

    assert not Document.objects.exists()
    assert not Chunk.objects.exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("no_text", "The document holds no text, only images."),
        ("interrupted", "The server process ended before the document was ready."),
        ("damaged", "What was stored of the document was damaged."),
    ],
)
def test_a_failed_document_says_why(
    browser: Browser, document: Document, code: str, reason: str
) -> None:
    Document.objects.update(status="failed", error_code=code)

    listed = browser.get("/admin/rag/document/").content.decode()
    page = browser.get(f"/admin/rag/document/{document.pk}/change/").content.decode()

    assert code in listed
    assert reason in page
