"""The body of a chat request, parsed into an Ask."""

from __future__ import annotations

import json
import uuid
from typing import Any

from chat.answers import Ask
from chat.hygiene import Hygiene
from llmbackend.errors import Invalid


def parse_ask(body: bytes, *, conversation_id: str) -> Ask:
    """`{"message": "..."}` to a conversation; raises Invalid."""
    if not (conversation_id.isascii() and conversation_id.isdigit()):
        raise Invalid("The conversation id must be an integer.")
    if len(conversation_id) > 19:
        raise Invalid("The conversation id is too long.")
    return Ask(
        conversation_id=int(conversation_id), message=_message(_json_object(body))
    )


def parse_rag_ask(body: bytes) -> Ask:
    """
    `{"conversation_id", "kb_id", "message", "top_k"}`; raises Invalid.

    `top_k` is 5 unless it is said, and 1 to 50.
    """
    fields = _json_object(body)
    conversation_id, top_k = fields.get("conversation_id"), fields.get("top_k", 5)
    if not isinstance(conversation_id, int) or isinstance(conversation_id, bool):
        raise Invalid("conversation_id: an integer is required.")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= 50:
        raise Invalid("top_k: must be an integer from 1 to 50.")
    return Ask(
        conversation_id=conversation_id,
        message=_message(fields),
        knowledge_base_id=_uuid(fields.get("kb_id")),
        top_k=top_k,
    )


def _uuid(text: Any) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except (ValueError, TypeError, AttributeError) as exc:
        raise Invalid("kb_id: a UUID is required.") from exc


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Invalid("The body is not valid JSON.") from exc
    if not isinstance(parsed, dict):
        raise Invalid("The body must be a JSON object.")
    return parsed


def _message(fields: dict[str, Any]) -> str:
    message = fields.get("message")
    if not isinstance(message, str):
        raise Invalid("message: a string is required.")
    hygiene = Hygiene()
    message = hygiene.feed(message) + hygiene.flush()
    if not message.strip():
        raise Invalid("message: must not be blank.")
    return message
