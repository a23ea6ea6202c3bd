"""Idempotency-Key: sent twice, done once."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from django.db.models.functions import Now

from accounts.idempotency import forget_old_keys
from accounts.models import IdempotencyKey
from conversations.models import Conversation, Message
from rag.models import Document
from tests.chat.streams import SSE, events_of, text_of
from tests.conftest import Client, Served, client_of
from tests.fake_provider import FakeProvider, Script, refusal
from tests.rag.embeddings import make_base


def keyed(key: str = "k-1", **headers: str) -> dict[str, str]:
    return {"Idempotency-Key": key, **headers}


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


class TestChat:
    def test_the_same_answer_is_streamed_again_from_its_start(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["One", " two"]))

        told = [
            events_of(as_alice.ask(conversation, "Hi", headers=keyed(**SSE)).text)
            for _ in range(2)
        ]

        assert [text_of(events) for events in told] == ["One two", "One two"]
        assert told[0][-1] == told[1][-1]
        assert len(provider.requests) == 1
        assert len(as_alice.history(conversation)) == 2

    def test_ten_at_once_are_one_question_and_one_call(
        self, server: Served, alice: Any, conversation: int, provider: FakeProvider
    ) -> None:
        def ask(_: int) -> httpx2.Response:
            with client_of(server, alice) as client:
                return client.ask(conversation, "Hi", headers=keyed(**SSE))

        with ThreadPoolExecutor(10) as pool:
            responses = list(pool.map(ask, range(10)))

        assert {response.status_code for response in responses} == {200}
        assert {text_of(events_of(r.text)) for r in responses} == {"Hello!"}
        assert len(provider.requests) == 1
        assert Message.objects.count() == 2

    def test_another_question_under_the_key_is_refused(
        self, as_alice: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi", headers=keyed())

        for response in [
            as_alice.ask(conversation, "Ho", headers=keyed()),
            as_alice.ask(as_alice.conversation(), "Hi", headers=keyed()),
            as_alice.post(f"/api/chat/{conversation}/regenerate", headers=keyed()),
        ]:
            assert response.status_code == 422
            assert response.json()["code"] == "idempotency_mismatch"

    def test_the_key_is_its_users_alone(
        self, as_alice: Client, as_mallory: Client, conversation: int
    ) -> None:
        as_alice.ask(conversation, "Hi", headers=keyed())
        foreign = as_mallory.ask(conversation, "Hi", headers=keyed())
        own = as_mallory.ask(as_mallory.conversation(), "Hi", headers=keyed())

        assert (foreign.status_code, own.status_code) == (404, 200)

    def test_a_request_that_stored_nothing_leaves_its_key_free(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=["Hello", "!"], stall_after=1)
        provider.enqueue(held)
        path = f"/api/chat/{conversation}"
        with as_alice.stream("POST", path, json={"message": "Hi"}):
            assert as_alice.ask(conversation, "Ho", headers=keyed()).status_code == 409
            held.release.set()
        provider.wait_until(lambda: provider.answering == 0)
        as_alice.history(conversation)

        while as_alice.ask(conversation, "Ho", headers=keyed()).status_code == 409:
            pass  # The first answer is just being closed.
        assert as_alice.history(conversation)[2]["content"] == "Ho"

    def test_a_failure_before_the_first_piece_is_told_again(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(refusal(401))

        first, again = (
            as_alice.ask(conversation, "Hi", headers=keyed()) for _ in range(2)
        )

        assert (first.status_code, again.status_code) == (502, 502)
        assert first.json()["code"] == again.json()["code"] == "provider_auth"
        assert len(provider.requests) == 1

    @pytest.mark.parametrize("deed", ["regenerate", "continue", "edit"])
    def test_every_deed_takes_a_key(
        self, as_alice: Client, conversation: int, provider: FakeProvider, deed: str
    ) -> None:
        length = Script(pieces=["Hello"], finish_reason="length")
        provider.enqueue(length, Script(pieces=[" there!"]))
        as_alice.ask(conversation, "Hi")
        body = {"message_id": 1, "message": "Ho"} if deed == "edit" else {}

        told = [
            as_alice.post(
                f"/api/chat/{conversation}/{deed}", json=body, headers=keyed(**SSE)
            ).text
            for _ in range(2)
        ]

        assert [text_of(events_of(text)) for text in told] == [" there!"] * 2
        assert len(provider.requests) == 2

    def test_rag_chat_takes_a_key(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        body = {
            "conversation_id": conversation,
            "kb_id": make_base(as_alice),
            "message": "Hi",
        }

        for _ in range(2):
            as_alice.post("/api/rag/chat", json=body, headers=keyed())

        assert len(provider.requests) == 1

    def test_an_answer_is_told_again_though_its_base_has_gone(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        base = make_base(as_alice)
        asked = {"conversation_id": conversation, "kb_id": base, "message": "Swifts?"}

        def ask(key: str, **more: Any) -> httpx2.Response:
            body = {**asked, **more}
            return as_alice.post("/api/rag/chat", json=body, headers=keyed(key))

        told = ask("k-1")
        as_alice.post("/api/rag/kb/delete", json={"kb_id": base})

        assert told.status_code == 200
        assert ask("k-1").content.endswith(told.content[-20:])
        assert ask("k-1", message="Terns?").status_code == 422
        assert ask("k-2").status_code == 404
        assert len(provider.requests) == 1

    def test_a_body_that_is_nested_too_deeply_to_be_compared_is_refused(
        self, as_alice: Client, conversation: int
    ) -> None:
        asked = '{"message": "Hi", "nested": %s}'
        path = f"/api/chat/{conversation}"
        for depth in range(900, 1000):
            nested = asked % ("[" * depth + "]" * depth)
            response = as_alice.post(path, content=nested, headers=keyed(f"k-{depth}"))
            assert response.status_code in {200, 400}, depth


class TestOthers:
    def test_one_conversation_is_made(self, as_alice: Client) -> None:
        body = {"title": "Mine", "model": "gpt-4o", "api_key": "sk-own"}

        first, again = (
            as_alice.post("/api/conversations/create", json=body, headers=keyed())
            for _ in range(2)
        )

        assert first.json() == again.json()
        assert Conversation.objects.count() == 1

    def test_a_deleted_one_is_not_made_again(self, as_alice: Client) -> None:
        body = {"title": "Mine", "model": "gpt-4o"}
        path = "/api/conversations/create"
        made = as_alice.post(path, json=body, headers=keyed()).json()
        as_alice.post(f"/api/conversations/del/{made['conversation_id']}")

        assert as_alice.post(path, json=body, headers=keyed()).status_code == 404

    def test_a_copy_is_found_again_though_the_original_has_gone(
        self, as_alice: Client, conversation: int
    ) -> None:
        path = f"/api/conversations/{conversation}/duplicate"
        copy = as_alice.post(path, headers=keyed())
        as_alice.post(f"/api/conversations/del/{conversation}")

        again = as_alice.post(path, headers=keyed())

        assert again.json() == copy.json()
        assert as_alice.post(path, headers=keyed("k-2")).status_code == 404

    def test_one_document_is_uploaded(self, as_alice: Client) -> None:
        base = make_base(as_alice)

        def upload(text: bytes) -> httpx2.Response:
            return as_alice.post(
                "/api/rag/doc/upload",
                data={"kb_id": base},
                files={"file": ("a.txt", text)},
                headers=keyed(),
            )

        first, again = upload(b"Swifts fly."), upload(b"Swifts fly.")
        other = upload(b"Swifts swim.")

        assert first.json() == again.json()
        assert again.json()["duplicate"] is False
        assert other.status_code == 422
        assert Document.objects.count() == 1

    def test_a_failed_upload_can_be_sent_again(self, as_alice: Client) -> None:
        base = make_base(as_alice)
        path, files = "/api/rag/doc/upload", {"file": ("a.pdf", b"Swifts fly.")}

        for _ in range(2):
            response = as_alice.post(
                path, data={"kb_id": base}, files=files, headers=keyed()
            )
            assert response.json()["code"] == "unsupported_type"
        assert not IdempotencyKey.objects.exists()


@pytest.mark.parametrize("key", ["x" * 256, "über"])
def test_a_key_that_is_none_is_refused(
    as_alice: Client, conversation: int, key: str
) -> None:
    headers = [(b"Idempotency-Key", key.encode())]

    response = as_alice.ask(conversation, "Hi", headers=headers)

    assert response.status_code == 400


def test_a_key_is_kept_for_a_day(
    as_alice: Client, conversation: int, provider: FakeProvider
) -> None:
    as_alice.ask(conversation, "Hi", headers=keyed())
    keys = IdempotencyKey.objects.all()
    keys.update(created_at=Now() - timedelta(hours=23))
    assert forget_old_keys() == 0
    keys.update(created_at=Now() - timedelta(hours=25))

    assert as_alice.ask(conversation, "Ho", headers=keyed()).status_code == 200
    keys.update(created_at=Now() - timedelta(hours=25))
    assert forget_old_keys() == 1


def test_only_ids_are_kept(as_alice: Client) -> None:
    secret = uuid.uuid4().hex
    body = {"title": f"T {secret}", "model": "gpt-4o", "api_key": f"sk-{secret}"}

    made = as_alice.post("/api/conversations/create", json=body, headers=keyed())

    row = IdempotencyKey.objects.values().get()
    assert row["made"] == str(made.json()["conversation_id"])
    assert secret not in str(row)
