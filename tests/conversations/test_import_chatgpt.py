"""POST /api/conversations/import, of what ChatGPT exports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conversations.chatgpt import own_form
from conversations.models import Conversation
from llmbackend.errors import TooLarge
from tests.conversations.test_import import PATH, exported, ids_in, take_in

TEXT = "text"


def node(parent: str | None, role: str = "", *parts: Any, **fields: Any) -> Any:
    """A node; without a role there is no message in it."""
    if not role:
        return {"message": None, "parent": parent, "children": []}
    kind = fields.pop("kind", TEXT)
    content = fields.pop("content", {"parts": list(parts)})
    message = {
        "author": {"role": role},
        "create_time": 1700000000.5,
        "content": {"content_type": kind, **content},
        "status": "finished_successfully",
        "recipient": "all",
        "metadata": {},
        **fields,
    }
    return {"message": message, "parent": parent, "children": []}


def tree(**nodes: Any) -> dict[str, Any]:
    """A conversation; each node has the ids of those below it."""
    for name, one in nodes.items():
        if one["parent"] in nodes:
            nodes[one["parent"]]["children"].append(name)
    return {
        "title": "雨燕",
        "create_time": 1700000000.25,
        "update_time": 1700000100,
        "default_model_slug": "gpt-4o",
        "mapping": nodes,
        "current_node": list(nodes)[-1],
    }


def said(client, **nodes):
    """The messages of a tree, as they are told after its import."""
    (made,) = ids_in(take_in(client, [tree(**nodes)]))
    (told,) = exported(client, made)["conversations"]
    return told["messages"]


def lines(messages):
    return [(m["message_id"], m["parent_id"], m["content"]) for m in messages]


def test_a_conversation_comes_with_its_times_and_model(as_alice):
    answer = node("q", "assistant", "They glide.")
    answer["message"]["metadata"] = {"model_slug": "gpt-4o-mini"}
    whole = tree(
        root=node(None),
        s=node("root", "system", ""),
        q=node("s", "user", "How do swifts sleep?"),
        a=answer,
    )

    (made,) = ids_in(take_in(as_alice, [whole]))

    (told,) = exported(as_alice, made)["conversations"]
    question, answer = told.pop("messages")
    assert told == {
        "title": "雨燕",
        "model": "gpt-4o",
        "system_prompt": None,
        "temperature": None,
        "top_p": None,
        "max_tokens": None,
        "created_at": "2023-11-14T22:13:20.250000Z",
        "updated_at": "2023-11-14T22:15:00Z",
        "active_message_id": 2,
    }
    assert question["created_at"] == "2023-11-14T22:13:20.500000Z"
    assert (answer["content"], answer["model"]) == ("They glide.", "gpt-4o-mini")
    assert (answer["status"], answer["finish_reason"]) == ("complete", "stop")


def test_branches_stay_and_the_current_one_is_active(as_alice):
    whole = tree(
        q=node(None, "user", "1"),
        a=node("q", "assistant", "first"),
        b=node("q", "assistant", "second"),
        q2=node("a", "user", "2"),
        c=node("q2", "assistant", "third"),
    )
    whole["current_node"] = "b"

    (made,) = ids_in(take_in(as_alice, [whole]))

    (told,) = exported(as_alice, made)["conversations"]
    assert lines(told["messages"]) == [
        (1, None, "1"),
        (2, 1, "first"),
        (3, 2, "2"),
        (4, 3, "third"),
        (5, 1, "second"),
    ]
    assert [m["content"] for m in as_alice.history(made)] == ["1", "second"]
    as_alice.ask(made, "3")
    assert len(as_alice.history(made)) == 4


def test_what_went_to_tools_is_the_reasoning_of_one_answer(as_alice):
    messages = said(
        as_alice,
        q=node(None, "user", "6 * 7?"),
        t=node(
            "q", "assistant", kind="thoughts", content={"thoughts": [{"content": "Hm"}]}
        ),
        call=node(
            "t", "assistant", kind="code", content={"text": "6*7"}, recipient="python"
        ),
        out=node("call", "tool", kind="execution_output", content={"text": "42"}),
        a=node("out", "assistant", "It is 42."),
        more=node("a", "assistant", "Really."),
    )

    assert lines(messages) == [(1, None, "6 * 7?"), (2, 1, "It is 42.\n\nReally.")]
    assert messages[1]["reasoning"] == "Hm\n\n6*7\n\n42"


def test_an_answer_that_divides_is_whole_in_each_branch(as_alice):
    messages = said(
        as_alice,
        q=node(None, "user", "1"),
        a=node("q", "assistant", "A"),
        b=node("a", "assistant", "B"),
        c=node("a", "assistant", "C"),
        q2=node("a", "user", "2"),
    )

    assert lines(messages) == [
        (1, None, "1"),
        (2, 1, "A"),
        (3, 1, "A\n\nB"),
        (4, 1, "A\n\nC"),
        (5, 2, "2"),
    ]


def test_what_was_hidden_or_is_about_the_user_is_left_out(as_alice):
    hidden = {"is_visually_hidden_from_conversation": True}
    messages = said(
        as_alice,
        s=node(None, "system", "Be brief.", metadata=hidden),
        u=node(
            "s", "user", kind="user_editable_context", content={"user_profile": "I"}
        ),
        q=node("u", "user", "1"),
        h=node("q", "assistant", "Secret", metadata=hidden),
        a=node("h", "assistant", "2"),
    )

    assert lines(messages) == [(1, None, "1"), (2, 1, "2")]


def test_a_system_text_is_the_system_prompt(as_alice):
    whole = tree(s=node(None, "system", "Be brief."), q=node("s", "user", "1"))

    (made,) = ids_in(take_in(as_alice, [whole]))

    told = as_alice.get(f"/api/conversations/{made}").json()
    assert told["system_prompt"] == "Be brief."
    assert lines(exported(as_alice, made)["conversations"][0]["messages"]) == [
        (1, None, "1")
    ]


def test_pictures_sounds_and_files_are_named(as_alice):
    messages = said(
        as_alice,
        q=node(
            None,
            "user",
            {"content_type": "image_asset_pointer", "asset_pointer": "x://1"},
            "What is this?",
            {"content_type": "audio_transcription", "text": "Tell me."},
            kind="multimodal_text",
            metadata={"attachments": [{"name": "a.pdf"}, {"id": 1}]},
        ),
        a=node("q", "assistant", {"content_type": "audio_asset_pointer"}),
    )

    asked = "[image]\n\nWhat is this?\n\nTell me.\n\n[file: a.pdf]"
    assert lines(messages) == [(1, None, asked), (2, 1, "[audio]")]


@pytest.mark.parametrize(
    ("fields", "ended"),
    [
        ({"metadata": {"finish_details": {"type": "max_tokens"}}}, "complete length"),
        ({"metadata": {"finish_details": {"type": "interrupted"}}}, "stopped "),
        ({"status": "in_progress"}, "interrupted "),
    ],
)
def test_how_an_answer_ended_is_kept(as_alice, fields, ended):
    _, answer = said(
        as_alice,
        q=node(None, "user", "1"),
        a=node("q", "assistant", "2", **fields),
    )

    assert f"{answer['status']} {answer['finish_reason']}" == ended


def test_said_without_being_asked_has_an_empty_question(as_alice):
    messages = said(as_alice, a=node(None, "assistant", "Hello"))

    assert lines(messages) == [(1, None, ""), (2, 1, "Hello")]


def test_halves_of_characters_are_replaced(as_alice):
    messages = said(as_alice, q=node(None, "user", "a\ud83db\0c\ud83d\ude00"))

    assert messages[0]["content"] == "a\ufffdbc😀"


def test_a_single_conversation_is_taken_too(as_alice):
    whole = tree(q=node(None, "user", "1"))
    del whole["default_model_slug"], whole["create_time"], whole["title"]

    (made,) = ids_in(take_in(as_alice, whole))

    told = as_alice.get(f"/api/conversations/{made}").json()
    assert (told["title"], told["model"]) == ("", "unknown")


def test_a_deep_tree_is_walked(as_alice):
    nodes = {"0": node(None, "user", "0")}
    for n in range(1, 4000):
        role = "user" if n % 2 == 0 else "assistant"
        nodes[str(n)] = node(str(n - 1), role, str(n))

    (made,) = ids_in(take_in(as_alice, [tree(**nodes)]))

    assert len(as_alice.history(made)) == 4000


def test_branches_that_multiply_their_text_are_a_413():
    nodes = {"q": node(None, "user", "1"), "0": node("q", "assistant", "x" * 1000)}
    for n in range(1, 600):
        nodes[str(n)] = node(str(n - 1), "assistant", "x" * 1000)
        nodes[f"u{n}"] = node(str(n), "user", "?")

    with pytest.raises(TooLarge):
        own_form(tree(**nodes))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mapping": 7}, "Conversation 2: mapping: must be an object."),
        ({"mapping": {"a": 7}}, "Conversation 2: mapping: node “a” must be"),
        (
            {"mapping": {"a": {"message": {"author": {}}}}},
            "Conversation 2: mapping: the message of node “a” cannot be read.",
        ),
        (
            {"mapping": {"a": node("b"), "b": node("a")}},
            "Conversation 2: mapping: a node is below itself.",
        ),
        ({"create_time": "now"}, "Conversation 2: create_time: must be seconds"),
        ({"create_time": 1e12}, "Conversation 2: create_time: must be seconds"),
        (
            {"mapping": {"a": node(None, "user", "1", create_time=-1)}},
            "Conversation 2: create_time: must be seconds",
        ),
    ],
)
def test_what_cannot_be_read_is_said_and_nothing_is_stored(as_alice, change, sentence):
    good = tree(q=node(None, "user", "1"))

    response = as_alice.post(PATH, content=json.dumps([good, {**good, **change}]))

    assert response.status_code == 400
    assert response.json()["error"].startswith(sentence)
    assert not Conversation.objects.exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"current_node": ["x"]},
        {"current_node": "gone"},
        {"title": 7},
        {"default_model_slug": {}},
        {"mapping": {"a": node("gone", "user", None, 7, [], {})}},
        {"mapping": {"a": node(None, "user", content={"parts": 7})}},
        {"mapping": {"a": node(None, "user", recipient={}, metadata=7, status=[])}},
        {
            "mapping": {
                "a": {**node(None, "user", "1"), "children": 7},
                "b": node(
                    "a",
                    "assistant",
                    "2",
                    recipient=["x"],
                    metadata={
                        "finish_details": 7,
                        "model_slug": [],
                        "attachments": {},
                    },
                ),
            }
        },
    ],
)
def test_oddities_are_taken(as_alice, odd):
    whole = {**tree(q=node(None, "user", "1")), **odd}

    assert len(ids_in(take_in(as_alice, [whole]))) == 1
