"""Deleting many rows at once in the admin."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from django.contrib.admin import site
from django.test import Client as Browser
from django.utils import timezone

from accounts.models import User
from conversations.models import Conversation
from llmbackend import readonly_admin
from tests.conftest import PASSWORD
from tests.conversations.conftest import make_conversation

PAGE = "/admin/conversations/conversation/"
LISTS = [
    f"/admin/{model._meta.label_lower.replace('.', '/')}/"
    for model, page in site._registry.items()
    if isinstance(page, readonly_admin.CountedDeletion)
]


@pytest.fixture
def browser(database: None) -> Browser:
    root = User.objects.create_superuser("root", password=PASSWORD)
    browser = Browser(headers={"host": "localhost"}, raise_request_exception=False)
    browser.force_login(root)
    return browser


def make_many(count: int) -> None:
    alice, now = User.objects.create_user("alice"), timezone.now()
    Conversation.objects.bulk_create(
        Conversation(owner=alice, model="gpt-4o", created_at=now, updated_at=now)
        for _ in range(count)
    )


def asked(browser: Browser, *chosen: int, everything: bool = False) -> Any:
    """The question that comes before a deletion, or what there is in its place."""
    form = {"action": "delete_selected", "_selected_action": chosen}
    return browser.post(PAGE, {**form, "select_across": int(everything)})


def fields_of(page: Any) -> list[tuple[str, str]]:
    """What a browser sends when the form of a page is sent as it is."""
    hidden = re.findall(
        r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.content.decode()
    )
    return [(name, html.unescape(value)) for name, value in hidden]


def confirm(browser: Browser, page: Any) -> Any:
    form: dict[str, list[str]] = {}
    for name, value in fields_of(page):
        form.setdefault(name, []).append(value)
    return browser.post(PAGE, form)


def test_more_rows_are_deleted_than_django_takes_fields(browser: Browser) -> None:
    make_many(1_200)
    first = Conversation.objects.first()
    assert first is not None

    question = asked(browser, first.pk, everything=True)
    answer = confirm(browser, question)

    assert answer.status_code == 302
    assert not Conversation.objects.exists()


def test_more_than_a_form_can_name_are_refused_in_words(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readonly_admin, "MOST_DELETED", 2)
    make_many(3)
    first = Conversation.objects.first()
    assert first is not None

    answer = asked(browser, first.pk, everything=True)

    assert answer.status_code == 302
    assert "At most 2 can be deleted at once" in browser.get(PAGE).content.decode()
    assert Conversation.objects.count() == 3


def test_rows_that_have_gone_meanwhile_are_no_mistake(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone before they are looked for, and after."""
    alice = User.objects.create_user("alice")
    rows = [make_conversation(alice) for _ in range(3)]
    question = asked(browser, *(row.pk for row in rows))
    rows[0].delete()
    page = site._registry[Conversation]
    delete_model = page.delete_model

    def another_was_faster(request: Any, row: Any) -> None:
        Conversation.objects.filter(pk=rows[1].pk).delete()
        delete_model(request, row)

    monkeypatch.setattr(page, "delete_model", another_was_faster)
    answer = confirm(browser, question)

    assert answer.status_code == 302
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("page", LISTS)
@pytest.mark.parametrize("chosen", ["", "abc", "1" * 30, "\0", "0000-g"])
def test_a_row_that_cannot_be_is_a_400(
    browser: Browser, page: str, chosen: str
) -> None:
    form = {"action": "delete_selected", "_selected_action": chosen}

    assert browser.post(page, form).status_code == 400
