"""Conversations in the admin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client as Browser

from accounts.models import AuditEntry, User
from conversations.models import Conversation, Message
from tests.conftest import Client


@pytest.fixture
def browser(server: object) -> Browser:
    root = User.objects.create_superuser("root", password="correct horse battery")
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


def test_a_conversation_is_deleted_with_its_messages(
    browser: Browser, as_alice: Client
) -> None:
    conversation = as_alice.conversation()
    as_alice.ask(conversation, "Hi")
    page = f"/admin/conversations/conversation/{conversation}/delete/"

    assert browser.get(page).status_code == 200
    assert browser.post(page, {"post": "yes"}).status_code == 302

    assert not Conversation.objects.exists()
    assert not Message.objects.exists()


def test_a_message_is_not_deleted_alone(browser: Browser, as_alice: Client) -> None:
    as_alice.ask(as_alice.conversation(), "Hi")
    message = Message.objects.order_by("number").first()
    assert message is not None

    response = browser.post(
        f"/admin/conversations/message/{message.pk}/delete/", {"post": "yes"}
    )

    assert response.status_code == 403
    assert Message.objects.count() == 2


def test_neither_words_nor_keys_are_shown(browser: Browser, as_alice: Client) -> None:
    conversation = as_alice.conversation(api_key="sk-alices-own-key")
    as_alice.ask(conversation, "Something private")
    message = Message.objects.order_by("number").first()
    assert message is not None

    pages = [
        "/admin/conversations/conversation/",
        f"/admin/conversations/conversation/{conversation}/change/",
        "/admin/conversations/message/",
        f"/admin/conversations/message/{message.pk}/change/",
    ]
    shown = "".join(browser.get(page).content.decode() for page in pages)

    assert str(conversation) in shown
    assert "Something private" not in shown
    assert "alices-own" not in shown


@pytest.mark.parametrize(
    "page",
    [
        "message/?content__contains=private",
        "message/?sources__icontains=snippet",
        "message/?conversation__title__contains=private",
        "conversation/?title__contains=private",
        "conversation/?system_prompt__startswith=S",
        "conversation/?api_key__startswith=g",
    ],
)
def test_nothing_hidden_is_found_out_by_filtering(
    browser: Browser, as_alice: Client, page: str
) -> None:
    conversation = as_alice.conversation(system_prompt="Something private")
    as_alice.ask(conversation, "Something private")

    assert browser.get(f"/admin/conversations/{page}").status_code == 400


def test_lists_are_filtered_by_what_they_offer(
    browser: Browser, as_alice: Client
) -> None:
    as_alice.ask(as_alice.conversation(), "Hi")

    shown = browser.get("/admin/conversations/message/?status__exact=failed&p=1")
    page = "/admin/conversations/message/?role__exact=user&status__exact=complete"
    found = browser.get(page)

    assert "0 messages" in shown.content.decode()
    assert "1 message" in found.content.decode()


@pytest.fixture
def contents(settings: Any) -> None:
    """Administrators may read what users wrote."""
    shown = replace(settings.CONFIG.admin, show_contents=True)
    settings.CONFIG = replace(settings.CONFIG, admin=shown)


class TestContents:
    def test_titles_and_words_are_hidden(
        self, browser: Browser, as_alice: Client
    ) -> None:
        conversation = as_alice.conversation(title="")
        path, prompt = f"/api/conversations/{conversation}", "Be secretive"
        as_alice.patch(path, json={"system_prompt": prompt}).raise_for_status()
        as_alice.ask(conversation, "Something private")
        message = Message.objects.get(number=1)

        pages = "".join(browser.get(page).content.decode() for page in every_page())

        assert f"{conversation}/{message.number}" in pages
        assert "private" not in pages
        assert "secretive" not in pages
        assert not AuditEntry.objects.filter(action="viewed").exists()

    def test_where_they_are_shown_each_view_is_noted(
        self, browser: Browser, as_alice: Client, contents: None
    ) -> None:
        conversation = as_alice.conversation(title="Owls")
        as_alice.ask(conversation, "Something <b>private</b>")
        message = Message.objects.get(number=1)
        page = f"/admin/conversations/message/{message.pk}/change/"

        for _ in range(2):
            shown = browser.get(page).content.decode()
            assert "Something &lt;b&gt;private&lt;/b&gt;" in shown
        page = f"/admin/conversations/conversation/{conversation}/change/"
        assert "Owls" in browser.get(page).content.decode()

        root = User.objects.get(username="root").pk
        entries = AuditEntry.objects.filter(action="viewed").order_by("pk")
        assert list(entries.values_list("actor_id", "kind", "object_id")) == [
            (root, "conversations.message", str(message.pk)),
            (root, "conversations.message", str(message.pk)),
            (root, "conversations.conversation", str(conversation)),
        ]

    def test_lists_show_none_and_note_nothing(
        self, browser: Browser, as_alice: Client, contents: None
    ) -> None:
        as_alice.ask(as_alice.conversation(title="Owls"), "Something private")

        for page in ("conversation", "message"):
            shown = browser.get(f"/admin/conversations/{page}/").content.decode()
            assert "private" not in shown
            assert "Owls" not in shown
        assert not AuditEntry.objects.filter(action="viewed").exists()


def every_page() -> list[str]:
    """The lists, and the pages of all rows."""
    pages = []
    for model in (Conversation, Message):
        path = f"/admin/conversations/{model._meta.model_name}/"
        pages.append(path)
        pages += [f"{path}{row.pk}/change/" for row in model.objects.all()]
    return pages


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "shown"),
        [
            ("sk-alices-very-own-key-1234", "sk-…1234"),
            ("0123456789abcdef0123456789abcdef.SomeSecret", "…cret"),
            ("sk-short-one", "…"),
        ],
    )
    def test_of_one_its_end_is_shown(
        self, browser: Browser, as_alice: Client, key: str, shown: str
    ) -> None:
        conversation = as_alice.conversation(api_key=key)

        page = f"/admin/conversations/conversation/{conversation}/change/"
        page = browser.get(page).content.decode()

        assert f'<div class="readonly">{shown}</div>' in page

    def test_one_that_cannot_be_opened_is_said_to_be_there(
        self, browser: Browser, as_alice: Client
    ) -> None:
        conversation = as_alice.conversation(api_key="sk-alices-own-key")
        Conversation.objects.update(model="nobody-serves-this")

        page = f"/admin/conversations/conversation/{conversation}/change/"

        assert "stored; cannot be read" in browser.get(page).content.decode()

    def test_they_are_cleared(self, browser: Browser, as_alice: Client) -> None:
        with_key = as_alice.conversation(api_key="sk-alices-own-key")
        without = as_alice.conversation()
        ids = [str(with_key), str(without)]

        page = browser.post(
            "/admin/conversations/conversation/",
            {"action": "clear_keys", "_selected_action": ids},
            follow=True,
        ).content.decode()

        assert "The API key of 1 conversation was cleared." in page
        assert not Conversation.objects.exclude(api_key="").exists()
        assert AuditEntry.objects.get(action="key_ended").object_id == str(with_key)
        changed = as_alice.get(f"/api/conversations/{with_key}").json()
        assert changed["has_api_key"] is False


class TestSearch:
    @pytest.mark.parametrize("term", ["alice", "ALICE", "id", "provider_auth"])
    def test_finds_by_whole_id_name_and_code(
        self, browser: Browser, as_alice: Client, as_mallory: Client, term: str
    ) -> None:
        hers, other = as_alice.conversation(), as_mallory.conversation()
        for client, conversation in ((as_alice, hers), (as_mallory, other)):
            client.ask(conversation, "Hi")
        failed = Message.objects.filter(conversation=hers, role="assistant")
        failed.update(status="failed", error_code="provider_auth")

        asked = {"q": str(hers) if term == "id" else term}
        page = browser.get("/admin/conversations/message/", asked).content.decode()

        assert str(hers) in page
        assert str(other) not in page
