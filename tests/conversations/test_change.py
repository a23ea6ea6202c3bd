"""GET and PATCH /api/conversations/<conversation_id>."""

import json

import pytest
from django.conf import settings

from conversations.models import Conversation
from llmbackend.crypto import origin_of, unseal
from tests.conversations.conftest import make_conversation
from tests.fake_provider import Script

PATH = "/api/conversations/{}"
KEY = "sk-canary-4b1c6f7d20"


@pytest.fixture
def conversation(as_alice):
    return as_alice.conversation()


def opened(conversation, alice, *, provider=0):
    """The stored key, as it would be sent to a provider of the config."""
    origin = origin_of(settings.CONFIG.providers[provider].base_url)
    sealed = Conversation.objects.get(pk=conversation).api_key
    keys = settings.KEYS.field
    return unseal(sealed, keys=keys, owner_id=alice.pk, origin=origin)


def test_shows_the_conversation_with_its_settings(as_alice, conversation):
    response = as_alice.get(PATH.format(conversation))

    stored = Conversation.objects.get()
    assert response.status_code == 200
    assert response.json() == {
        "conversation_id": conversation,
        "title": "Rust",
        "model": "gpt-4o",
        "has_api_key": False,
        "system_prompt": None,
        "temperature": None,
        "top_p": None,
        "max_tokens": None,
        "created_time": int(stored.created_at.timestamp()),
        "updated_time": int(stored.updated_at.timestamp()),
    }


def test_a_new_title_is_shown_everywhere(as_alice, conversation):
    changed = as_alice.patch(PATH.format(conversation), json={"title": "所有权"})

    assert changed.status_code == 200
    assert changed.json() == as_alice.get(PATH.format(conversation)).json()
    assert changed.json()["title"] == "所有权"
    assert as_alice.get("/api/conversations/list").json()[0]["title"] == "所有权"
    history = as_alice.get(f"/api/conversations/history/{conversation}").json()
    assert history["title"] == "所有权"


def test_settings_hold_from_the_next_question_on(as_alice, conversation, provider):
    given = {
        "model": "gpt-5-mini",
        "system_prompt": "  Answer in verse.\n",
        "temperature": 0.5,
        "top_p": 1,
        "max_tokens": 200,
    }

    changed = as_alice.patch(PATH.format(conversation), json=given).json()
    as_alice.ask(conversation, "Hi")

    assert {name: changed[name] for name in given} == given
    asked = provider.requests[0].body
    assert asked["messages"][0]["content"] == "  Answer in verse.\n"
    for name in ("model", "temperature", "top_p", "max_tokens"):
        assert asked[name] == given[name]


def test_null_gives_a_setting_back_to_the_configuration(
    as_alice, conversation, provider
):
    path = PATH.format(conversation)
    as_alice.patch(path, json={"system_prompt": "Be brief.", "temperature": 2})

    as_alice.patch(path, json={"system_prompt": None, "temperature": None})
    as_alice.ask(conversation, "Hi")

    asked = provider.requests[0].body
    assert asked["messages"][0]["content"] == settings.CONFIG.chat.system_prompt
    assert "temperature" not in asked


def test_an_empty_system_prompt_is_none_at_all(as_alice, conversation, provider):
    as_alice.patch(PATH.format(conversation), json={"system_prompt": ""})
    as_alice.ask(conversation, "Hi")

    roles = [message["role"] for message in provider.requests[0].body["messages"]]
    assert roles == ["user"]


def test_what_is_not_given_stays(as_alice, conversation):
    path = PATH.format(conversation)
    as_alice.patch(path, json={"temperature": 0.5, "api_key": KEY})

    before = as_alice.patch(path, json={"top_p": 0.9}).json()
    after = as_alice.patch(path, json={"unheard-of": 1, "owner": 1}).json()

    assert before == after
    assert (after["title"], after["temperature"], after["top_p"]) == ("Rust", 0.5, 0.9)
    assert after["has_api_key"] is True


def test_a_change_is_no_turn(as_alice, conversation):
    other = as_alice.conversation()
    before = Conversation.objects.get(pk=conversation)

    as_alice.patch(PATH.format(conversation), json={"title": "Go"})

    after = Conversation.objects.get(pk=conversation)
    assert after.updated_at == before.updated_at
    assert after.version == before.version + 1
    listed = as_alice.get("/api/conversations/list").json()
    assert [row["conversation_id"] for row in listed] == [other, conversation]


class TestKeys:
    def test_a_new_key_is_used_and_never_shown(
        self, as_alice, alice, conversation, provider, caplog
    ):
        caplog.set_level("DEBUG")

        changed = as_alice.patch(PATH.format(conversation), json={"api_key": KEY})
        as_alice.ask(conversation, "Hi")

        assert changed.json()["has_api_key"] is True
        assert provider.requests[0].api_key == KEY
        assert opened(conversation, alice) == KEY
        assert KEY not in changed.text + caplog.text

    @pytest.mark.parametrize("none", ["", None])
    def test_an_empty_one_removes_it(self, as_alice, provider, none):
        conversation = as_alice.conversation(api_key=KEY)

        changed = as_alice.patch(PATH.format(conversation), json={"api_key": none})
        as_alice.ask(conversation, "Hi")

        assert changed.json()["has_api_key"] is False
        assert provider.requests[0].api_key == "sk-configured-key"

    def test_it_stays_with_another_model_of_its_provider(self, as_alice, alice):
        conversation = as_alice.conversation(api_key=KEY)

        changed = as_alice.patch(PATH.format(conversation), json={"model": "gpt-5"})

        assert (changed.status_code, changed.json()["model"]) == (200, "gpt-5")
        assert opened(conversation, alice) == KEY

    @pytest.mark.parametrize("model", ["gone-1", "local-quote"])
    def test_another_providers_model_wants_another_key(self, as_alice, model):
        conversation = as_alice.conversation(api_key=KEY)
        before = Conversation.objects.values().get()

        response = as_alice.patch(PATH.format(conversation), json={"model": model})

        assert response.status_code == 409
        assert response.json()["code"] == "stored_key_unreadable"
        assert Conversation.objects.values().get() == before

    def test_a_key_is_for_the_model_that_comes_with_it(self, as_alice, alice):
        conversation = as_alice.conversation(api_key="sk-old")
        path = PATH.format(conversation)

        as_alice.patch(path, json={"model": "gone-1", "api_key": KEY})
        assert opened(conversation, alice, provider=1) == KEY

        as_alice.patch(path, json={"model": "local-quote", "api_key": ""})
        assert not Conversation.objects.get().api_key

    def test_one_for_a_model_nobody_serves_any_more_is_a_400(self, as_alice, alice):
        conversation = make_conversation(alice, model="claude-3")

        response = as_alice.patch(PATH.format(conversation.pk), json={"api_key": KEY})

        assert response.status_code == 400
        assert response.json()["code"] == "unknown_model"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"title": ""},
        {"title": " "},
        {"title": None},
        {"title": "T" * 501},
        {"title": "nul\0"},
        {"model": None},
        {"model": ""},
        {"model": 4},
        {"api_key": 7},
        {"api_key": "sk-密"},
        {"system_prompt": 7},
        {"system_prompt": "nul\0"},
        {"system_prompt": "\ud800"},
        {"system_prompt": "x" * 32_001},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": 1e400},
        {"temperature": float("nan")},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"top_p": []},
        {"max_tokens": 0},
        {"max_tokens": 1_000_001},
        {"max_tokens": 1.5},
        {"max_tokens": "100"},
        {"max_tokens": 10**400},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_a_value_out_of_range_is_a_400_and_changes_nothing(
    as_alice, conversation, body
):
    before = Conversation.objects.values().get()

    response = as_alice.patch(PATH.format(conversation), content=json.dumps(body))

    assert response.status_code == 400
    assert response.json()["code"] == "invalid"
    assert Conversation.objects.values().get() == before


@pytest.mark.parametrize("model", ["claude-3", "gp", "*"])
def test_a_model_nobody_serves_is_a_400(as_alice, conversation, model):
    response = as_alice.patch(PATH.format(conversation), json={"model": model})

    assert response.status_code == 400
    assert response.json()["code"] == "unknown_model"


def test_a_change_while_an_answer_is_written_is_for_the_next(
    as_alice, conversation, provider
):
    held = Script(pieces=["Hel", "lo"], stall_after=1)
    provider.enqueue(held)
    path = f"/api/chat/{conversation}"
    with as_alice.stream("POST", path, json={"message": "Hi"}) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        changed = as_alice.patch(PATH.format(conversation), json={"max_tokens": 9})
        held.release.set()
        rest = b"".join(pieces)

    assert changed.status_code == 200
    assert rest.endswith(b'"Hello"}\n\n')
    assert Conversation.objects.get().max_tokens == 9
