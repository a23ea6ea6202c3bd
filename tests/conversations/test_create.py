"""POST /api/conversations/create."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection

from conversations.models import Conversation
from llmbackend.crypto import origin_of, unseal
from llmbackend.errors import StoredKeyUnreadable

PATH = "/api/conversations/create"
KEY = "sk-canary-0d1f9b7a55"
ASKED = {"title": "My New Conversation", "model": "gpt-4o", "api_key": KEY}


def test_answers_as_the_seed_documents(as_alice, alice):
    before = int(time.time())

    response = as_alice.post(PATH, json=ASKED)

    assert response.status_code == 200
    body = response.json()
    assert list(body) == [
        "conversation_id",
        "title",
        "model",
        "api_key",
        "created_time",
    ]
    stored = Conversation.objects.get()
    assert stored.owner == alice
    assert body["conversation_id"] == stored.pk
    assert {name: body[name] for name in ASKED} == ASKED
    assert type(body["created_time"]) is int
    assert before <= body["created_time"] <= time.time()


def test_the_answer_with_the_key_is_not_stored_on_the_way(as_alice):
    assert as_alice.post(PATH, json=ASKED).headers["cache-control"] == "no-store"


def test_no_other_answer_holds_the_key(as_alice):
    conversation = as_alice.post(PATH, json=ASKED).json()["conversation_id"]
    as_alice.ask(conversation, "Hi")

    later = [
        as_alice.get("/api/conversations/list"),
        as_alice.get(f"/api/conversations/history/{conversation}"),
        as_alice.post(f"/api/conversations/del/{conversation}"),
    ]

    assert [answer.status_code for answer in later] == [200] * 3
    assert not any(KEY in answer.text for answer in later)


def test_the_key_is_used_for_the_conversations_questions(as_alice, provider):
    conversation = as_alice.post(PATH, json=ASKED).json()["conversation_id"]

    as_alice.ask(conversation, "Hi")

    assert provider.requests[0].api_key == KEY


def test_the_key_lies_encrypted_in_row_and_file(as_alice):
    as_alice.post(PATH, json=ASKED)

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM conversations_conversation")
        row = cursor.fetchone()
    assert "gpt-4o" in row
    assert KEY not in str(row)
    if connection.vendor == "sqlite":
        database = Path(connection.settings_dict["NAME"])
        files = [*database.parent.glob(f"{database.name}*")]
        written = b"".join(path.read_bytes() for path in files)
        assert b"My New Conversation" in written
        assert KEY.encode() not in written


def test_the_key_opens_for_its_owner_at_its_provider_only(
    as_alice, alice, mallory, settings
):
    as_alice.post(PATH, json=ASKED)
    sealed = Conversation.objects.get().api_key
    origin = origin_of(settings.CONFIG.providers[0].base_url)
    keys = settings.KEYS.field

    assert unseal(sealed, keys=keys, owner_id=alice.pk, origin=origin) == KEY
    with pytest.raises(StoredKeyUnreadable):
        unseal(sealed, keys=keys, owner_id=mallory.pk, origin=origin)
    with pytest.raises(StoredKeyUnreadable):
        unseal(sealed, keys=keys, owner_id=alice.pk, origin="https://evil.example:443")


def test_the_key_appears_in_no_log_line(as_alice, caplog):
    caplog.set_level("DEBUG")

    conversation = as_alice.post(PATH, json=ASKED).json()["conversation_id"]
    as_alice.ask(conversation, "Hi")
    as_alice.post(PATH, json={**ASKED, "model": "unheard-of"})
    as_alice.post(PATH, json={**ASKED, "title": ""})

    assert KEY not in caplog.text


@pytest.mark.parametrize("fields", [{}, {"api_key": None}, {"api_key": ""}])
def test_the_key_may_be_left_out(as_alice, provider, fields):
    response = as_alice.post(
        PATH, json={"title": "No key", "model": "gpt-4o", **fields}
    )

    assert response.status_code == 200
    assert response.json()["api_key"] == ""
    assert Conversation.objects.get().api_key == ""
    as_alice.ask(response.json()["conversation_id"], "Hi")
    assert provider.requests[0].api_key == "sk-configured-key"


@pytest.mark.parametrize(
    "key",
    ["sk-\nX-Evil: 1", "sk-\r\n", "sk-\u00e9", "sk-密", "sk-\x7f", "s\tk", "x" * 513],
)
def test_a_key_that_fits_no_header_is_a_400(as_alice, key):
    response = as_alice.post(PATH, json={**ASKED, "api_key": f"a{key}z"})

    assert response.status_code == 400
    assert response.json()["code"] == "invalid"
    assert response.json()["error"].startswith("api_key: ")
    assert f"a{key}z" not in response.text


@pytest.mark.parametrize("model", ["claude-3", "unheard-of", "*", "gp", "-gpt-4o"])
def test_a_model_nobody_serves_is_a_400(as_alice, model):
    response = as_alice.post(PATH, json={**ASKED, "model": model})

    assert response.status_code == 400
    assert response.json()["code"] == "unknown_model"
    assert not Conversation.objects.exists()


def test_a_model_is_known_in_any_case(as_alice):
    assert as_alice.post(PATH, json={**ASKED, "model": "GPT-4o"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        3,
        "text",
        {},
        {"title": "T"},
        {"title": 7, "model": "gpt-4o"},
        {"title": ["T"], "model": "gpt-4o"},
        {"title": "T" * 501, "model": "gpt-4o"},
        {"title": "nul\0", "model": "gpt-4o"},
        {"title": "\ud800", "model": "gpt-4o"},
        {"title": "T", "model": 4},
        {"title": "T", "model": "gpt-" + "4" * 200},
        {"title": "T", "model": "gpt-\0"},
        {"title": "T", "model": "gpt-4o", "api_key": 7},
        {"title": "T", "model": "gpt-4o", "api_key": ["sk"]},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_a_body_of_another_shape_is_a_400_in_the_error_body(as_alice, body):
    response = as_alice.post(PATH, content=json.dumps(body))

    assert response.status_code == 400
    assert set(response.json()) == {"error", "code", "request_id"}
    assert response.json()["code"] == "invalid"
    assert not Conversation.objects.exists()


def test_text_of_every_kind_comes_back_as_it_was(as_alice):
    title = '会话 "quoted" \\ 😀 <b>&amp;</b> ' + "x" * 400

    created = as_alice.post(PATH, json={**ASKED, "title": title.strip()})

    assert created.json()["title"] == title.strip()
    listed = as_alice.get("/api/conversations/list").json()
    assert listed[0]["title"] == title.strip()


def test_ids_are_random_and_exact_in_javascript(as_alice):
    ids = [as_alice.conversation() for _ in range(40)]

    assert len(set(ids)) == 40
    assert all(0 < number < 2**53 for number in ids)
    # By chance once in 2**40 runs: each is below 2**52 with a probability of 1/2.
    assert max(ids) >= 2**52
    assert ids != sorted(ids)


def test_nothing_but_the_documented_fields_is_taken_from_the_body(as_alice, mallory):
    response = as_alice.post(
        PATH,
        json={
            **ASKED,
            "conversation_id": 7,
            "id": 7,
            "owner": mallory.pk,
            "version": 9,
        },
    )

    stored = Conversation.objects.get()
    assert response.status_code == 200
    assert stored.pk != 7
    assert stored.owner.username == "alice"
    assert stored.version == 0


def test_without_a_token_it_is_a_401_whatever_the_body(anonymous):
    for body in (json.dumps(ASKED), "null", "{"):
        response = anonymous.post(PATH, content=body)

        assert response.status_code == 401
        assert response.json()["code"] == "unauthorized"


def test_of_many_at_once_each_is_refused_under_its_own_id(as_alice):
    def refused(_):
        return as_alice.post(PATH, json={"title": "Hi", "model": "no-such-model"})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(refused, range(64)))

    assert {answer.status_code for answer in answers} == {400}
    for answer in answers:
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_many_at_once_are_all_created_each_with_its_own_id(as_alice):
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda _: as_alice.conversation(), range(64)))

    assert len(set(ids)) == 64
    listed = as_alice.get("/api/conversations/list").json()
    assert {row["conversation_id"] for row in listed} == set(ids)
