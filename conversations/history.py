"""The messages of a conversation, from its root to its active leaf, and their cache."""

from __future__ import annotations

from typing import Any

import msgspec

from accounts.models import User
from conversations.models import Conversation, Message, check_id
from conversations.writers import interrupt_before_reading
from llmbackend import cache
from llmbackend.errors import NotActive, NotFound
from llmbackend.prepared import Select, given

CACHE_SECONDS = 3600
# To be raised when Said changes: another release may be reading the same Redis.
FORM = 2
STREAMING = Message.Status.STREAMING


class Said(msgspec.Struct, frozen=True):
    """
    A message as a reader of history sees it.

    `siblings` are the message_ids of all versions of it, its own too; empty when it is
    the only one.
    """

    message_id: int
    role: str
    content: str
    status: str
    finish_reason: str
    sources: list[Any]
    siblings: list[int]


def history(*, user: User, conversation_id: int) -> tuple[Conversation, list[Said]]:
    """An owned conversation and its messages, oldest first; raises NotFound."""
    conversation, leaf_status = _with_leaf(user, conversation_id)
    if leaf_status != STREAMING:
        path = closed_path(conversation, leaf_id=conversation.active_leaf_id)
        return conversation, path
    if interrupt_before_reading(conversation_id):
        return history(user=user, conversation_id=conversation_id)
    # It may have ended since, and is then shown with its end.
    leaf = Message.objects.filter(pk=conversation.active_leaf_id or 0).first()
    if leaf is None:
        raise NotFound
    earlier = closed_path(conversation, leaf_id=leaf.parent_id)
    versions = Message.objects.filter(
        conversation=conversation, parent_id=leaf.parent_id
    )
    siblings = sorted(versions.values_list("number", flat=True))
    return conversation, [*earlier, said(leaf, siblings)]


def _with_leaf(user: User, conversation_id: int) -> tuple[Conversation, str | None]:
    """An owned conversation and its last answer's status, as of one moment."""
    check_id(conversation_id)
    row = _WITH_LEAF.row(owner=user.pk, id=conversation_id)
    if row is None:
        raise NotFound
    *fields, status = row
    return Conversation.from_db("default", _columns(), fields), status


def _columns() -> list[str]:
    return [field.attname for field in Conversation._meta.concrete_fields]


_WITH_LEAF = Select(
    lambda: (
        Conversation.objects.owned_by(given(Conversation, "owner"))
        .filter(pk=given(Conversation, "id"))
        .values_list(*_columns(), "active_leaf__status")
    )
)


def page_of(
    conversation: Conversation,
    messages: list[Said],
    *,
    before: int | None,
    limit: int | None,
) -> list[Said]:
    """
    The last `limit` of the conversation's messages before the message `before`.

    None leaves either open. Raises NotFound for none of its messages, NotActive for
    one of another branch.
    """
    end = len(messages)
    if before is not None:
        ids = [message.message_id for message in messages]
        if before not in ids:
            exists = Message.objects.filter(conversation=conversation, number=before)
            raise NotActive if exists.exists() else NotFound
        end = ids.index(before)
    start = 0 if limit is None else max(0, end - limit)
    return messages[start:end]


def said(message: Message, siblings: list[int]) -> Said:
    return Said(
        message_id=message.number,
        role=message.role,
        content=message.content,
        status=message.status,
        finish_reason=message.finish_reason,
        sources=message.sources,
        siblings=siblings if len(siblings) > 1 else [],
    )


def closed_path(conversation: Conversation, *, leaf_id: int | None) -> list[Said]:
    """
    The closed messages from the root to `leaf_id`, oldest first.

    `leaf_id` must be what the conversation's version as read names: the cache is
    keyed by that version, so that nothing stale can be found under it.
    """
    if leaf_id is None:
        return []
    key = cache_key(conversation.owner_id, conversation.pk, conversation.version)
    cached = cache.get(key)
    if cached is not None:
        return msgspec.convert(cached, list[Said])
    path = _path_from_database(conversation.pk, leaf_id)
    stored = cache.put(key, path, seconds=CACHE_SECONDS)
    # A deletion since the first read has already dropped what was cached by then.
    if stored and not Conversation.objects.filter(pk=conversation.pk).exists():
        cache.forget([key])
    return path


def forget(*, owner_id: int, conversation_id: int, version: int) -> None:
    """Drop what is cached of a deleted conversation, under every version it had."""
    versions = range(version + 1)
    cache.forget([cache_key(owner_id, conversation_id, old) for old in versions])


def cache_key(owner_id: int, conversation_id: int, version: int) -> str:
    name = f"history:{FORM}:{conversation_id}:{version}"
    return cache.owned_key(owner_id, name)


def _path_from_database(conversation_id: int, leaf_id: int) -> list[Said]:
    nodes = {}
    versions: dict[int | None, list[int]] = {}
    for row in _MESSAGES.rows(conversation=conversation_id):
        pk, parent_id, number, *_ = row
        nodes[pk] = row
        versions.setdefault(parent_id, []).append(number)
    path = []
    node = nodes.get(leaf_id)
    while node is not None:
        _, parent_id, *shown = node
        siblings = versions[parent_id] if len(versions[parent_id]) > 1 else []
        path.append(Said(*shown, sorted(siblings)))  # type: ignore[call-arg]
        node = nodes.get(parent_id)
    return path[::-1]


# In the order of what Said is made of.
_MESSAGES = Select(
    lambda: Message.objects.filter(
        conversation=given(Message, "conversation")
    ).values_list(
        "pk",
        "parent_id",
        *("number", "role", "content", "status", "finish_reason", "sources"),
    )
)
