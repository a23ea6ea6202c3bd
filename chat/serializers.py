"""The body of a chat request, parsed into an Ask."""

from __future__ import annotations

import json
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
