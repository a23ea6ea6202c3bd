"""Conversations in the admin."""

from __future__ import annotations

import pytest
from django.test import Client as Browser

from accounts.models import User
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
