"""The admin's pages cost the same number of statements however much there is."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import Model
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


@pytest.mark.parametrize(
    ("model", "by"),
    [
        (AuditEntry, "address"),
        (AuditEntry, "object_id"),
        (Conversation, "pk"),
        (Message, "conversation_id"),
        (Message, "error_code"),
        (KnowledgeBase, "name"),
        (KnowledgeBase, "pk"),
        (Document, "name"),
        (Document, "knowledge_base_id"),
    ],
)
def test_nobody_hides_a_row_by_being_called_like_it(
    browser: Browser, model: type[Model], by: str
) -> None:
    add_everything("alice")
    AuditEntry.objects.create(
        at=timezone.now(), action="viewed", object_id="77", address="203.0.113.9"
    )
    term = max(str(getattr(row, by) or "") for row in model._base_manager.all())
    before = found_by(browser, model, term)

    add_everything(term)

    assert before
    assert before < found_by(browser, model, term)


def found_by(browser: Browser, model: type[Model], term: str) -> set[object]:
    """The keys of the rows that a list is searched for."""
    page = f"/admin/{model._meta.label_lower.replace('.', '/')}/"
    listed = browser.get(page, {"q": term}).context["cl"]
    return {row.pk for row in listed.result_list}


@pytest.mark.parametrize(
    "page",
    [
        "accounts/user/?is_active__regex=[",
        "rag/document/?status__regex=[",
        "rag/document/?status__exact=%00",
    ],
)
def test_no_list_is_filtered_in_ways_it_does_not_offer(
    browser: Browser, page: str
) -> None:
    assert browser.get(f"/admin/{page}").status_code == 400
    offered = page.partition("__")[0]
    assert browser.get(f"/admin/{offered}__exact=1").status_code in {200, 302}


@pytest.mark.parametrize(
    "of", ["accounts.ApiKey.owner", "conversations.Message.conversation"]
)
def test_what_django_completes_is_found(browser: Browser, of: str) -> None:
    add_everything("alice")
    asked = zip(("app_label", "model_name", "field_name"), of.split("."), strict=True)

    found = browser.get("/admin/autocomplete/", {**dict(asked), "term": ""})

    assert found.status_code == 200
    assert found.json()["results"]


def test_no_page_leads_to_what_has_no_page(browser: Browser) -> None:
    add_everything("alice")
    kind = ContentType.objects.get_for_model(Document)

    assert browser.get(f"/admin/r/{kind.pk}/1/").status_code == 404
