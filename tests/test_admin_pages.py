"""The admin's pages cost the same number of statements however much there is."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import audit
from accounts.models import ApiKey, AuditEntry, User
from conversations.models import Conversation, Message
from rag.models import Chunk, Document, KnowledgeBase
from tests.conftest import PASSWORD, make_key
from tests.conversations.conftest import make_conversation, make_turns

LISTED = (User, ApiKey, AuditEntry, Conversation, Message, KnowledgeBase, Document)


@pytest.fixture
def browser(database: None) -> Browser:
    """A browser in which an administrator has logged in."""
    root = User.objects.create_superuser("root", password=PASSWORD)
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


def add_everything(name: str) -> None:
    """A user with some of all there is."""
    user = User.objects.create_user(name)
    make_key(user, "chat")
    audit.record(audit.Action.VIEWED, by=user.pk, on=user)
    conversation = make_conversation(user)
    make_turns(conversation, "Fine", "Bad")
    conversation.messages.filter(content="Bad").update(
        status="failed", error_code="provider_busy", finished_at=timezone.now()
    )
    base = KnowledgeBase.objects.create(
        owner=user,
        name=f"Base of {name}",
        embedding_model="local-ngram",
        created_at=timezone.now(),
    )
    document = Document.objects.create(
        knowledge_base=base,
        name="a.txt",
        type="txt",
        sha256=uuid.uuid4().hex,
        embedding_model="local-ngram",
        status="failed",
        error_code="no_text",
        created_at=timezone.now(),
    )
    for ordinal in range(3):
        Chunk.objects.create(
            document=document,
            ordinal=ordinal,
            text="Text",
            start=0,
            end=4,
            embedding=b"",
            terms=b"",
        )


def pages() -> Iterator[str]:
    """Every page of ours about the rows of the first user."""
    yield "/admin/"
    for model in LISTED:
        path = f"/admin/{model._meta.label_lower.replace('.', '/')}/"
        row = model._base_manager.order_by("pk").first()
        assert row is not None
        yield path
        yield f"{path}?q=alice"
        yield f"{path}?q={row.pk}"
        yield f"{path}{row.pk}/change/"
        if model not in {AuditEntry, Message}:
            yield f"{path}{row.pk}/delete/"
    yield "/admin/conversations/message/?q=provider_busy"
    yield "/admin/conversations/message/?status__exact=failed"
    yield "/admin/rag/document/?status__exact=failed"
    document, base = Document.objects.earliest("created_at"), KnowledgeBase.objects
    yield f"/admin/rag/document/{document.pk}/chunks/"
    yield f"/admin/rag/knowledgebase/{base.earliest('created_at').pk}/try/"


def statements(browser: Browser, page: str) -> int:
    with CaptureQueriesContext(connection) as seen:
        assert browser.get(page).status_code == 200, page
    return len(seen)


def test_few_rows_and_many_cost_the_same(browser: Browser) -> None:
    add_everything("alice")
    looked_at = list(pages())
    for page in looked_at:
        browser.get(page)  # What is kept from then on is not counted.
    few = {page: statements(browser, page) for page in looked_at}
    for number in range(12):
        add_everything(f"user{number}")

    many = {page: statements(browser, page) for page in looked_at}

    # Of more than one page, the keys are found first.
    keys = {page: int(page == "/admin/conversations/message/") for page in looked_at}
    assert many == {page: few[page] + keys[page] for page in looked_at}
    assert max(few.values()) <= 16


def test_a_list_of_several_pages_has_every_row_once(browser: Browser) -> None:
    for number in range(120):
        User.objects.create_user(f"user{number:03}")

    found = []
    for number in range(1, 4):
        page = browser.get(f"/admin/accounts/user/?p={number}").content.decode()
        found += re.findall(r"change/[^>]*>(user\d{3})<", page)

    assert found == [f"user{number:03}" for number in range(120)]
