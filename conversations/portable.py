"""A conversation as it leaves the server: a file that can be imported, or be read."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from django.utils.http import content_disposition_header

from accounts.portable import iso
from conversations.history import Said
from conversations.models import Conversation, Message

FORMAT = "llmbackend.conversations"
VERSION = 1
LONGEST_NAME = 200  # bytes, of a title; id and ending follow it

COPIED = ("title", "model", "system_prompt", "temperature", "top_p", "max_tokens")
SAID = (
    *("role", "content", "reasoning", "status", "finish_reason", "error_code"),
    *("model", "provider", "sources"),
    *("prompt_tokens", "completion_tokens", "tokens_estimated"),
)
TIMES = ("created_at", "first_token_at", "finished_at")


def document(*conversations: dict[str, Any]) -> dict[str, Any]:
    """What an import takes."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "conversations": list(conversations),
    }


def portable(conversation: Conversation) -> dict[str, Any]:
    """
    All of a conversation that is not this server's alone: no id, no owner, no key.

    An answer that is being written is as it was last stored, and interrupted.
    """
    messages = list(conversation.messages.order_by("number"))
    numbers: dict[int | None, int] = {m.pk: m.number for m in messages}
    return {
        **{name: getattr(conversation, name) for name in COPIED},
        "created_at": iso(conversation.created_at),
        "updated_at": iso(conversation.updated_at),
        "active_message_id": numbers.get(conversation.active_leaf_id),
        "messages": [
            portable_message(message, parent=numbers.get(message.parent_id))
            for message in messages
        ],
    }


def portable_message(message: Message, *, parent: int | None) -> dict[str, Any]:
    body = {
        "message_id": message.number,
        "parent_id": parent,
        **{name: getattr(message, name) for name in SAID},
        **{name: iso(getattr(message, name)) for name in TIMES},
    }
    if message.status == Message.Status.STREAMING:
        interrupted = str(Message.Status.INTERRUPTED)
        body["status"] = body["error_code"] = interrupted
    return body


def markdown(conversation: Conversation, said: list[Said]) -> str:
    """The active branch, to be read by a person."""
    minute = f"{conversation.created_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    parts = [
        f"# {one_line(conversation.title) or 'Untitled'}",
        f"{one_line(conversation.model)}, {minute}",
    ]
    for message in said:
        parts += ["---", _heading(message), message.content.strip("\n")]
        if message.sources:
            parts.append("\n".join(map(_source, message.sources)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(message: Said) -> str:
    if message.role == Message.Role.USER:
        return "**Question**"
    ended = message.status
    if ended == Message.Status.COMPLETE:
        return "**Answer**"
    return f"**Answer** ({'being written' if ended == 'streaming' else ended})"


def _source(source: dict[str, Any]) -> str:
    page = source.get("page")
    where = f", p. {page}" if page else ""
    name = one_line(str(source.get("doc_name", "")))
    return f"- [{source.get('number', '')}] {name}{where}"


def one_line(text: str) -> str:
    return " ".join(text.split())


def disposition(conversation: Conversation, *, ending: str) -> str:
    """
    Content-Disposition with a name that every file system takes: of 255 bytes at most.

    The title as far as it can be one, and the id; the id alone beside it for programs
    that read ASCII only.
    """
    kept = (c if c.isalnum() or c in "-_ " else " " for c in conversation.title)
    title = "-".join("".join(kept).split())[:60]
    title = title.encode()[:LONGEST_NAME].decode(errors="ignore").strip("-")
    plain = f"{conversation.pk}.{ending}"
    name = f"{title}-{plain}" if title else plain
    header = content_disposition_header(as_attachment=True, filename=name) or ""
    if name.isascii():
        return header
    return header.replace(";", f'; filename="{plain}";', 1)
