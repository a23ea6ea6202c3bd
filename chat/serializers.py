"""The bodies of chat requests, parsed into what is asked."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from accounts.idempotency import once
from chat.asks import Ask
from chat.hygiene import cleaned
from conversations.asked import Asked, Continue, Edit, Question, Regenerate
from llmbackend.errors import Invalid, NotFound

LARGEST_MESSAGE_ID = 2**31 - 1


def conversation_id_of(text: str) -> int:
    """The conversation a path names; raises Invalid, NotFound if it is too large."""
    if not (text.isascii() and text.isdigit()):
        raise Invalid("The conversation id must be an integer.")
    if len(text) > 19:
        raise NotFound
    return int(text)


def question_of(fields: Mapping[str, Any]) -> Question:
    """`{"message"}`"""
    return Question(_message(fields))


def edit_of(fields: Mapping[str, Any]) -> Edit:
    """`{"message_id", "message"}`"""
    message_id = message_id_of(fields)
    if message_id is None:
        raise Invalid("message_id: the question to be edited is required.")
    return Edit(message_id, _message(fields))


def regenerate_of(fields: Mapping[str, Any]) -> Regenerate:
    """`{"message_id"}`, or nothing for the last answer."""
    return Regenerate(message_id_of(fields))


def continue_of(fields: Mapping[str, Any]) -> Continue:
    """`{"message_id"}`, or nothing for the last answer."""
    return Continue(message_id_of(fields))


# What can be done in a conversation, by the name that paths and frames give it.
DEEDS: dict[str, Callable[[Mapping[str, Any]], Asked]] = {
    "message": question_of,
    "regenerate": regenerate_of,
    "continue": continue_of,
    "edit": edit_of,
}


def ask_of(
    deed: str, fields: Mapping[str, Any], *, conversation_id: int, key: str
) -> Ask:
    """
    What `fields` ask of a conversation; `key` is the Idempotency-Key, or "".

    `kb_id` names a base to answer from. Without it a new version of an answer rests on
    the old one's base; with null on none. Raises Invalid.
    """
    base = fields.get("kb_id")
    asked = DEEDS[deed](fields)
    return Ask(
        conversation_id=conversation_id,
        asked=asked,
        knowledge_base_id=None if base is None else _uuid(base),
        same_base="kb_id" not in fields,
        top_k=_top_k(fields),
        key=once(key, deed, conversation_id, dict(fields)),
    )


def rag_ask_of(fields: Mapping[str, Any], *, key: str) -> Ask:
    """
    `{"conversation_id", "kb_id", "message", "top_k"}`; raises Invalid.

    `top_k` is 5 unless it is said, and 1 to 50.
    """
    conversation_id = rag_conversation_id_of(fields)
    base = _uuid(fields.get("kb_id"))
    return Ask(
        conversation_id=conversation_id,
        asked=question_of(fields),
        knowledge_base_id=base,
        top_k=_top_k(fields),
        key=once(key, "rag", dict(fields)),
    )


def rag_conversation_id_of(fields: Mapping[str, Any]) -> int:
    """The conversation that a body names; raises Invalid."""
    conversation_id = fields.get("conversation_id")
    if not isinstance(conversation_id, int) or isinstance(conversation_id, bool):
        raise Invalid("conversation_id: an integer is required.")
    return conversation_id


def message_id_of(fields: Mapping[str, Any]) -> int | None:
    """The message that is named, if one is; raises Invalid, NotFound if too large."""
    message_id = fields.get("message_id")
    if message_id is None:
        return None
    if not isinstance(message_id, int) or isinstance(message_id, bool):
        raise Invalid("message_id: an integer is required.")
    if message_id < 1:
        raise Invalid("message_id: must be the id of a message.")
    if message_id > LARGEST_MESSAGE_ID:
        raise NotFound
    return message_id


def json_object(body: bytes | str) -> dict[str, Any]:
    """A body or frame that must be a JSON object; raises Invalid."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Invalid("The body is not valid JSON.") from exc
    if not isinstance(parsed, dict):
        raise Invalid("The body must be a JSON object.")
    return parsed


def _top_k(fields: Mapping[str, Any]) -> int:
    top_k = fields.get("top_k", 5)
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= 50:
        raise Invalid("top_k: must be an integer from 1 to 50.")
    return top_k


def _uuid(text: Any) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except (ValueError, TypeError, AttributeError) as exc:
        raise Invalid("kb_id: a UUID is required.") from exc


def _message(fields: Mapping[str, Any]) -> str:
    message = fields.get("message")
    if not isinstance(message, str):
        raise Invalid("message: a string is required.")
    message = cleaned(message)
    if not message.strip():
        raise Invalid("message: must not be blank.")
    return message
