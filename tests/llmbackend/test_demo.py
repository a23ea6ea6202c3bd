"""create_demo and delete_user: what comes and goes as a whole."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.signals import pre_delete

from accounts.models import User
from conversations.models import Conversation
from rag.models import KnowledgeBase
from tests.conftest import Client, Served
from tests.fake_provider import FakeProvider, refusal


def said_by(*command: str) -> dict[str, str]:
    out = StringIO()
    call_command(*command, stdout=out, stderr=StringIO())
    lines = [line.partition(": ") for line in out.getvalue().splitlines()]
    return {name: value for name, _, value in lines}


def test_the_demo_answers_from_its_contracts(server: Served, anonymous: Client) -> None:
    told = said_by("create_demo")
    who = {name: told[name] for name in ("username", "password")}
    token = anonymous.post("/api/users/login", json=who).json()["token"]

    answer = anonymous.post(
        "/api/rag/chat",
        headers={"Authorization": f"Bearer {token}"},
        json={
            "conversation_id": int(told["conversation_id"]),
            "kb_id": told["kb_id"],
            "message": "逾期支付租金要付多少违约金?",
        },
    )

    assert "千分之一" in answer.text


def test_a_user_is_not_made_twice(server: Served, alice: User) -> None:
    with pytest.raises(CommandError, match="already"):
        call_command("create_demo", "--user", "ALICE")
    assert User.objects.count() == 1


@pytest.mark.parametrize("name", ["", " demo", "de\tmo", "x" * 151])
def test_a_name_that_could_not_be_registered_is_refused(
    server: Served, name: str
) -> None:
    with pytest.raises(CommandError):
        call_command("create_demo", "--user", name)
    assert not User.objects.exists()


def test_a_demo_whose_documents_cannot_be_embedded_leaves_nothing(
    server: Served, provider: FakeProvider, settings: Any
) -> None:
    provider.routes["/embeddings"] = lambda _: refusal(401)
    embedded = replace(settings.CONFIG.rag, default_embedding_model="fake-embedding")
    settings.CONFIG = replace(settings.CONFIG, rag=embedded)

    with pytest.raises(CommandError, match="refused the API key"):
        call_command("create_demo", stderr=StringIO())

    assert not User.objects.exists()
    assert not KnowledgeBase.objects.exists()


def test_a_deletion_that_is_interrupted_leaves_the_account_as_it_was(
    server: Served, alice: User
) -> None:
    def interrupted(**_: Any) -> None:
        raise KeyboardInterrupt

    pre_delete.connect(interrupted, sender=User)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_command("delete_user", "alice")
    finally:
        pre_delete.disconnect(interrupted, sender=User)

    assert User.objects.get().is_active


def test_a_user_goes_with_all_that_is_theirs(server: Served, alice: User) -> None:
    said_by("create_demo")
    said_by("delete_user", "demo", "--dry-run")
    assert KnowledgeBase.objects.count() == 1

    call_command("delete_user", "Demo", stdout=StringIO())

    assert list(User.objects.all()) == [alice]
    assert not Conversation.objects.exists()
    assert not KnowledgeBase.objects.exists()
    with pytest.raises(CommandError, match="no user"):
        call_command("delete_user", "demo")
