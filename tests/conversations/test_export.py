"""GET /api/conversations/:conversation_id/export."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote

import pytest

from conversations.models import Message
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)
from tests.fake_provider import Script, refusal


def export(client, conversation, **query):
    return client.get(f"/api/conversations/{conversation}/export", params=query)


def test_has_everything_but_ids_and_keys(as_alice, alice):
    made = datetime(2026, 11, 25, 6, 30, 11, 412080, tzinfo=UTC)
    conversation = make_conversation(
        alice, api_key="sealed", temperature=0.5, created_at=made, updated_at=made
    )
    make_turns(conversation, "Rust 是")
    answer = Message.objects.get(role="assistant")
    Message.objects.filter(pk=answer.pk).update(
        reasoning="Hm.",
        status="truncated",
        error_code="truncated",
        model="gpt-4o",
        provider="openai",
        sources=[{"number": 1, "doc_name": "a.md"}],
        prompt_tokens=3,
        created_at=made,
        first_token_at=made,
    )

    response = export(as_alice, conversation.pk)

    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    whole = response.json()
    assert (whole["format"], whole["version"]) == ("llmbackend.conversations", 1)
    (told,) = whole["conversations"]
    question, answer = told.pop("messages")
    assert told == {
        "title": "Rust",
        "model": "gpt-4o",
        "system_prompt": None,
        "temperature": 0.5,
        "top_p": None,
        "max_tokens": None,
        "created_at": "2026-11-25T06:30:11.412080Z",
        "updated_at": "2026-11-25T06:30:11.412080Z",
        "active_message_id": 2,
    }
    assert (question["message_id"], question["parent_id"]) == (1, None)
    assert answer == {
        "message_id": 2,
        "parent_id": 1,
        "role": "assistant",
        "content": "Rust 是",
        "reasoning": "Hm.",
        "status": "truncated",
        "finish_reason": "",
        "error_code": "truncated",
        "model": "gpt-4o",
        "provider": "openai",
        "sources": [{"number": 1, "doc_name": "a.md"}],
        "prompt_tokens": 3,
        "completion_tokens": None,
        "tokens_estimated": False,
        "created_at": "2026-11-25T06:30:11.412080Z",
        "first_token_at": "2026-11-25T06:30:11.412080Z",
        "finished_at": None,
    }
    assert "sealed" not in response.text
    assert str(conversation.pk) not in response.text


def test_has_every_branch(as_alice, provider):
    conversation = as_alice.conversation()
    as_alice.ask(conversation, "Hi")
    edit = {"message_id": 1, "message": "Hello"}
    as_alice.post(f"/api/chat/{conversation}/edit", json=edit)
    as_alice.post(f"/api/chat/{conversation}/regenerate", json={})

    (told,) = export(as_alice, conversation).json()["conversations"]

    parents = [(m["message_id"], m["parent_id"]) for m in told["messages"]]
    assert parents == [(1, None), (2, 1), (3, None), (4, 3), (5, 3)]
    assert told["active_message_id"] == 5


def test_an_answer_being_written_is_interrupted(as_alice, alice):
    conversation = make_conversation(alice)
    make_streaming(conversation, writer=make_writer(), content="Swifts")

    (told,) = export(as_alice, conversation.pk).json()["conversations"]

    answer = told["messages"][1]
    assert (answer["content"], answer["status"]) == ("Swifts", "interrupted")
    text = export(as_alice, conversation.pk, format="md").text
    assert "**Answer** (being written)" in text


def test_as_markdown_it_is_the_active_branch(as_alice, provider):
    provider.enqueue(Script(pieces=["Old"]), Script(pieces=["# They\n", "glide."]))
    provider.enqueue(refusal(401))
    conversation = as_alice.conversation(title="Swifts\nand gulls")
    as_alice.ask(conversation, "How?")
    as_alice.post(f"/api/chat/{conversation}/regenerate", json={})
    Message.objects.filter(number=3).update(
        sources=[{"number": 1, "doc_name": "birds.pdf", "page": 7}]
    )
    as_alice.ask(conversation, "And gulls?")

    response = export(as_alice, conversation, format="md")

    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    head, *parts = response.text.split("\n\n---\n\n")
    assert head.startswith("# Swifts and gulls\n\ngpt-4o, 20")
    assert parts == [
        "**Question**\n\nHow?",
        "**Answer**\n\n# They\nglide.\n\n- [1] birds.pdf, p. 7",
        "**Question**\n\nAnd gulls?",
        "**Answer** (failed)\n",
    ]


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("text/markdown", {}, "text/markdown"),
        ("text/markdown, */*;q=0.5", {}, "text/markdown"),
        ("text/markdown;q=0.5, application/json", {}, "application/json"),
        ("text/markdown", {"format": "json"}, "application/json"),
        ("application/json", {"format": "md"}, "text/markdown"),
        ("text/html, */*;q=0.8", {}, "application/json"),
        ("image/png", {}, "application/json"),
    ],
)
def test_is_what_is_accepted_unless_a_format_is_named(as_alice, accept, query, kind):
    conversation = as_alice.conversation()
    headers = {"Accept": accept}
    path = f"/api/conversations/{conversation}/export"

    response = as_alice.get(path, params=query, headers=headers)

    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == kind
    ending = ".md" if kind == "text/markdown" else ".json"
    assert response.headers["content-disposition"].endswith(f'{ending}"')
    wrong = as_alice.get(path, params={"format": "pdf"}, headers=headers)
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Rust & Go: which?", "Rust-Go-which-{id}.json"),
        ("租赁合同", "租赁合同-{id}.json"),
        ('../../etc/passwd"\r\nX: y', "etc-passwd-X-y-{id}.json"),
        ("...", "{id}.json"),
        ("CON", "CON-{id}.json"),
        ("😀", "{id}.json"),
        ("名" * 500, "名" * 60 + "-{id}.json"),
        ("𠮷" * 500, "𠮷" * 50 + "-{id}.json"),
    ],
)
def test_is_named_for_its_title(as_alice, alice, title, name):
    conversation = make_conversation(alice, title=title)

    header = export(as_alice, conversation.pk).headers["content-disposition"]

    expected = name.format(id=conversation.pk)
    if expected.isascii():
        assert header == f'attachment; filename="{expected}"'
    else:
        plain = f'filename="{conversation.pk}.json"'
        assert header.startswith(f"attachment; {plain}; filename*=utf-8''")
        assert unquote(header.partition("''")[2]) == expected


def test_in_no_other_form(as_alice):
    response = export(as_alice, as_alice.conversation(), format="pdf")

    assert response.status_code == 400
    assert response.json()["error"].startswith("format: ")


def test_a_page_of_another_origin_may_read_the_name(as_alice):
    response = export(as_alice, as_alice.conversation())

    exposed = response.headers["access-control-expose-headers"]
    assert "Content-Disposition" in exposed
