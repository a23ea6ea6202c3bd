"""POST /api/conversations/import, of this project's own form."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from conversations.models import Conversation, Message, Usage
from tests.chat.streams import SSE, events_of, text_of
from tests.conftest import client_with, make_key
from tests.fake_provider import Script, refusal

PATH = "/api/conversations/import"
WHEN = "2026-11-25T06:30:11.412080Z"


def said(number: int, parent: int | None, role: str, **fields: Any) -> dict[str, Any]:
    fixed = {"message_id": number, "parent_id": parent, "role": role}
    return {**fixed, "content": f"{number}", "created_at": WHEN, **fields}


def one(*messages: Any, **fields: Any) -> dict[str, Any]:
    fixed = {"title": "Rust", "model": "gpt-4o", "created_at": WHEN, "updated_at": WHEN}
    return {**fixed, "messages": list(messages), **fields}


def document(*conversations: Any, **fields: Any) -> dict[str, Any]:
    fixed = {"format": "llmbackend.conversations", "version": 1}
    return {**fixed, "conversations": list(conversations), **fields}


SOURCE_OF_ONE = {
    "number": 1,
    "kb_id": str(uuid.UUID(int=1)),
    "doc_id": str(uuid.UUID(int=2)),
    "doc_name": "birds.pdf",
    "score": 0.1,
    "snippet": "Swifts",
    "chunk_ids": [1],
    "start": 0,
    "end": 6,
    "page": None,
    "heading_path": [],
}
TURN = (said(1, None, "user"), said(2, 1, "assistant"))


def take_in(client, body, **headers):
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post(PATH, content=content, headers=headers)


def ids_in(response):
    assert response.status_code == 200, response.text
    return [row["conversation_id"] for row in response.json()["conversations"]]


def exported(client, conversation):
    return client.get(f"/api/conversations/{conversation}/export").json()


class TestWhatWasExported:
    @pytest.fixture
    def original(self, as_alice, provider):
        """Branches, sources, a failure, an answer cut, and settings."""
        conversation = as_alice.conversation(title="雨燕", api_key="sk-own-key")
        as_alice.patch(
            f"/api/conversations/{conversation}",
            json={"system_prompt": " Be\nbrief. ", "temperature": 0.25},
        )
        provider.enqueue(
            Script(pieces=["They ", "glide 😀."]),
            Script(pieces=["Cut"], finish_reason="length"),
            refusal(401),
        )
        as_alice.ask(conversation, "How do swifts sleep?")
        edit = {"message_id": 1, "message": "Do swifts sleep?"}
        as_alice.post(f"/api/chat/{conversation}/edit", json=edit)
        as_alice.post(f"/api/chat/{conversation}/regenerate", json={})
        as_alice.post(f"/api/conversations/{conversation}/branch", json=edit)
        Message.objects.filter(number=2).update(
            sources=[SOURCE_OF_ONE],
            reasoning="Hm.",
        )
        return conversation

    def test_comes_back_the_same(self, as_alice, as_mallory, original):
        whole = exported(as_alice, original)

        (made,) = ids_in(take_in(as_mallory, whole))

        assert exported(as_mallory, made) == whole
        assert as_mallory.history(made) == as_alice.history(original)
        assert as_alice.get(f"/api/conversations/{made}").status_code == 404

    def test_brings_no_key_and_costs_nothing(self, as_alice, original):
        spent = list(Usage.objects.values())

        (made,) = ids_in(take_in(as_alice, exported(as_alice, original)))

        assert as_alice.get(f"/api/conversations/{made}").json()["has_api_key"] is False
        assert list(Usage.objects.values()) == spent

    def test_can_be_gone_on_with(self, as_alice, original):
        (made,) = ids_in(take_in(as_alice, exported(as_alice, original)))

        as_alice.ask(made, "And gulls?")
        as_alice.post(f"/api/chat/{made}/regenerate", json={})

        assert [m["message_id"] for m in as_alice.history(made)] == [1, 2, 6, 8]
        assert as_alice.history(made)[3]["siblings"] == [7, 8]

    def test_rests_on_bases_that_are_here(self, as_alice, original):
        """Of another server's, there is nothing to answer from anew."""
        (made,) = ids_in(take_in(as_alice, exported(as_alice, original)))

        again = as_alice.post(f"/api/chat/{made}/regenerate", json={})

        assert again.status_code == 404
        assert len(as_alice.history(made)) == 2


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=20)
NAME = st.text("abc-4", max_size=8)
COUNT = st.none() | st.integers(0, 2**31 - 1)
MOMENT = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001  Their zone comes with the next line.
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
).map(lambda moment: moment.isoformat().replace("+00:00", "Z"))
ENDED = st.sampled_from(["complete", "stopped", "truncated", "failed", "interrupted"])
PLACE = st.integers(0, 10**6)
SOURCE = st.fixed_dictionaries(
    {
        "number": st.integers(1, 9),
        "kb_id": st.uuids().map(str),
        "doc_id": st.uuids().map(str),
        "doc_name": TEXT,
        "score": st.floats(0, 1),
        "snippet": TEXT,
        "chunk_ids": st.lists(st.integers(1, 10**9), max_size=2),
        "start": PLACE,
        "end": PLACE,
        "page": st.none() | PLACE,
        "heading_path": st.lists(TEXT, max_size=2),
    }
)


@st.composite
def trees(draw):
    """Messages of any tree, in which answers stand under questions."""
    messages: list[dict[str, Any]] = []
    number = 0
    for _ in range(draw(st.integers(0, 6))):
        number += draw(st.integers(1, 3))
        asked = [m["message_id"] for m in messages if m["role"] == "user"]
        role = draw(st.sampled_from(["user", "assistant"])) if asked else "user"
        above = asked if role == "assistant" else [m["message_id"] for m in messages]
        parents = above if role == "assistant" else [None, *above]
        messages.append(
            {
                "message_id": number,
                "parent_id": draw(st.sampled_from(parents)),
                "role": role,
                "content": draw(TEXT),
                "reasoning": draw(TEXT),
                "status": draw(ENDED),
                "finish_reason": draw(NAME),
                "error_code": draw(NAME),
                "model": draw(NAME),
                "provider": draw(NAME),
                "sources": draw(st.lists(SOURCE, max_size=2)),
                "prompt_tokens": draw(COUNT),
                "completion_tokens": draw(COUNT),
                "tokens_estimated": draw(st.booleans()),
                "created_at": draw(MOMENT),
                "first_token_at": draw(st.none() | MOMENT),
                "finished_at": draw(st.none() | MOMENT),
            }
        )
    return messages


@st.composite
def conversations(draw):
    messages = draw(trees())
    ids = [message["message_id"] for message in messages]
    return {
        "title": draw(TEXT),
        "model": draw(st.text("gpt-4o", min_size=1, max_size=8)),
        "system_prompt": draw(st.none() | TEXT),
        "temperature": draw(st.none() | st.floats(0, 2)),
        "top_p": draw(st.none() | st.floats(0, 1)),
        "max_tokens": draw(st.none() | st.integers(1, 1_000_000)),
        "created_at": draw(MOMENT),
        "updated_at": draw(MOMENT),
        "active_message_id": draw(st.sampled_from(ids)) if ids else None,
        "messages": messages,
    }


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(made=st.lists(conversations(), min_size=1, max_size=2))
def test_what_is_imported_is_exported_the_same(as_alice, made):
    ids = ids_in(take_in(as_alice, document(*made)))

    assert [exported(as_alice, pk) for pk in ids] == [document(one) for one in made]


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("conversation", "sentence"),
        [
            ("x", "Conversation 2: Must be an object."),
            (one(messages={}), "Conversation 2: messages: Must be an array."),
            (one(title=7), "Conversation 2: title: Not a valid string."),
            (one(model=""), "Conversation 2: model: This field may not be blank."),
            (one(temperature=3), "Conversation 2: temperature: "),
            (one(created_at="soon"), "Conversation 2: created_at: "),
            (one(created_at="0001-01-01T00:00:00+14:00"), "Conversation 2: created_at"),
            (one(*TURN, "x"), "Conversation 2: message 3: "),
            (one(*TURN, said(3, 2, "tool")), "Conversation 2: message 3: role: "),
            (one(said(1, None, "user", content="\0")), "Conversation 2: message 1: "),
            (one(said(1, None, "user", content="\ud800")), "Conversation 2: message 1"),
            (one(said(1, None, "user", status="streaming")), "Conversation 2: message"),
            (one(said(0, None, "user")), "Conversation 2: message 1: message_id: "),
            (
                one(said(10**9 + 1, None, "user")),
                "Conversation 2: message 1: message_id: ",
            ),
            (
                one(said(1, None, "\ud800")),
                'Conversation 2: message 1: role: "?" is not a valid choice.',
            ),
            (
                one(*TURN, said(2, 1, "assistant")),
                "Conversation 2: the message with message_id 2 is there twice.",
            ),
            (
                one(*TURN, said(3, 4, "user"), said(4, 3, "user")),
                "Conversation 2: the message with message_id 3: parent_id must name",
            ),
            (
                one(said(1, None, "assistant")),
                "Conversation 2: the message with message_id 1: an answer must stand",
            ),
            (
                one(*TURN, said(3, 2, "assistant")),
                "Conversation 2: the message with message_id 3: an answer must stand",
            ),
            (one(*TURN, active_message_id=3), "Conversation 2: active_message_id: "),
            *(
                (
                    one(said(1, None, "user", sources=[{**SOURCE_OF_ONE, **wrong}])),
                    f"Conversation 2: message 1: sources: 0: {next(iter(wrong))}: ",
                )
                for wrong in (
                    {"kb_id": "7"},
                    {"doc_name": "\0"},
                    {"snippet": "\udfff"},
                    {"chunk_ids": ["x"]},
                    {"heading_path": 7},
                    {"score": 1.5},
                    {"snippet": "x" * 201},
                    {"start": None},
                )
            ),
            (
                one(said(1, None, "user", prompt_tokens=-1)),
                "Conversation 2: message 1: prompt_tokens: ",
            ),
        ],
    )
    def test_is_said_and_nothing_is_stored(self, as_alice, conversation, sentence):
        response = take_in(as_alice, document(one(*TURN), conversation))

        assert response.status_code == 400
        assert response.json()["code"] == "invalid"
        assert response.json()["error"].startswith(sentence)
        assert not Conversation.objects.exists()

    @pytest.mark.parametrize(
        "body",
        [
            *["", "null", "7", "{", "[", "[{]", '{"a" 1}', "[1,]", "{}", "{} x"],
            *['{"conversations": 7}', document(format="x"), document(version=2)],
            *[b"\xff\xfe", '{"conversations": [], "a": NaN}', "[" * 100_000],
            *['{"conversations": ' + "[" * 100_000, '{"a": 1e' + "9" * 5000 + "}"],
            {"format": "llmbackend.conversations", "version": 1},
        ],
        ids=lambda body: str(body)[:20],
    )
    def test_a_body_that_is_no_export_is_a_400(self, as_alice, body):
        assert take_in(as_alice, body).status_code == 400

    def test_too_many_messages_are_a_413(self, as_alice):
        many = [said(n, None, "user") for n in range(1, 5002)]

        response = take_in(as_alice, document(one(*many), one(*many)))

        assert response.status_code == 413
        assert response.json()["error"] == "At most 10000 messages at once."
        assert not Conversation.objects.exists()

    def test_too_many_conversations_are_a_413(self, as_alice):
        assert take_in(as_alice, document(*[one()] * 1001)).status_code == 413
        assert not Conversation.objects.exists()

    def test_a_body_beyond_32_mib_is_a_413(self, as_alice):
        assert take_in(as_alice, b" " * ((32 << 20) + 1)).status_code == 413


class TestAnImport:
    def test_of_a_deep_and_a_wide_tree(self, as_alice):
        deep = [
            said(n, n - 1 or None, "user" if n % 2 else "assistant")
            for n in range(1, 3001)
        ]
        wide = [said(1, None, "user")]
        wide += [said(n, 1, "assistant") for n in range(2, 2000)]

        first, second = ids_in(take_in(as_alice, document(one(*deep), one(*wide))))

        assert len(as_alice.history(first)) == 3000
        assert len(as_alice.history(second)[1]["siblings"]) == 1998

    def test_with_the_largest_id_can_be_gone_on_with(self, as_alice, provider):
        (made,) = ids_in(take_in(as_alice, document(one(said(10**9, None, "user")))))

        as_alice.ask(made, "Hi")

        ids = [message["message_id"] for message in as_alice.history(made)]
        assert ids == [10**9, 10**9 + 1, 10**9 + 2]
        query = {"q": "Hi", "before": f"{made}-{ids[-1]}"}
        found = as_alice.get("/api/conversations/search", params=query)
        assert [hit["message_id"] for hit in found.json()] == [ids[1]]

    def test_with_the_largest_id_its_answers_can_be_read_again(self, as_alice):
        (made,) = ids_in(take_in(as_alice, document(one(said(10**9, None, "user")))))
        once = {**SSE, "Idempotency-Key": "k"}
        first = events_of(as_alice.ask(made, "Hi", headers=once).text)[0].id
        path = f"/api/chat/{made}/stream?format=sse&last_event_id="

        again = as_alice.ask(made, "Hi", headers=once)
        resumed = as_alice.get(f"{path}{first}")

        assert text_of(events_of(again.text)) == "Hello!"
        assert text_of(events_of(resumed.text)) == "Hello!"
        assert as_alice.get(f"{path}9999999999-0-0").status_code == 404

    def test_in_any_order_and_with_a_mark_of_its_bytes(self, as_alice):
        body = {"conversations": [one(*TURN[::-1])], "version": 1}
        text = json.dumps({**body, "format": "llmbackend.conversations"})

        (made,) = ids_in(take_in(as_alice, "\ufeff " + text))

        assert [m["content"] for m in as_alice.history(made)] == ["1", "2"]

    def test_is_listed_where_it_belongs_in_time(self, as_alice):
        now = as_alice.conversation()

        (made,) = ids_in(take_in(as_alice, document(one())))

        listed = as_alice.get("/api/conversations/list").json()
        assert [row["conversation_id"] for row in listed] == [now, made]

    def test_of_a_model_that_is_not_here_can_be_read(self, as_alice):
        (made,) = ids_in(take_in(as_alice, document(one(*TURN, model="claude-3"))))

        assert len(as_alice.history(made)) == 2
        assert as_alice.ask(made, "Hi").json()["code"] == "unknown_model"

    def test_sent_twice_is_made_once(self, as_alice):
        body, key = document(*[one(*TURN)] * 30), {"Idempotency-Key": "k"}

        first, again = (take_in(as_alice, body, **key) for _ in range(2))

        assert len(ids_in(first)) == 30
        assert first.json() == again.json()
        assert Conversation.objects.count() == 30
        assert take_in(as_alice, document(one()), **key).status_code == 422

    def test_sent_twice_has_what_is_left(self, as_alice):
        body, key = document(one(), one(title="Go")), {"Idempotency-Key": "k"}
        rust, go = ids_in(take_in(as_alice, body, **key))
        as_alice.post(f"/api/conversations/del/{rust}")

        assert ids_in(take_in(as_alice, body, **key)) == [go]
        as_alice.post(f"/api/conversations/del/{go}")
        assert take_in(as_alice, body, **key).status_code == 404

    def test_of_nothing_makes_nothing(self, as_alice):
        for _ in range(2):
            assert (
                ids_in(take_in(as_alice, document(), **{"Idempotency-Key": "k"})) == []
            )

    def test_by_a_key_is_of_the_models_it_may_use(self, server, alice):
        _, text = make_key(alice, "chat", chat_models=["gpt*"])
        with client_with(server, text) as client:
            response = take_in(client, document(one(), one(model="glm-4")))

            assert response.status_code == 403
            assert not Conversation.objects.exists()
            assert len(ids_in(take_in(client, document(one())))) == 1

    def test_is_found_by_a_search(self, as_alice):
        take_in(as_alice, document(one(said(1, None, "user", content="租赁合同"))))

        found = as_alice.get("/api/conversations/search", params={"q": "合同"}).json()
        assert [hit["message_id"] for hit in found] == [1]
