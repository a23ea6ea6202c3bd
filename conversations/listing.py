"""The list of a user's conversations, by last turn."""

from __future__ import annotations

from datetime import datetime

from accounts.models import User
from conversations.models import Conversation, ConversationQuerySet
from llmbackend.prepared import Select, given


def listed(
    *, owner: User, before: int | None, limit: int | None
) -> list[tuple[int, str, datetime]]:
    """
    Id, title and beginning of the conversations, the latest turn first.

    Those after the conversation `before`, and `limit` of them; None leaves either open.
    Raises NotFound.
    """
    if before is None:
        return _ALL.rows(owner=owner.pk, limit=limit)
    last = Conversation.objects.owned_by(owner).fetch(before)
    return _OLDER.rows(
        owner=owner.pk, updated_at=last.updated_at, id=last.pk, limit=limit
    )


def _owned() -> ConversationQuerySet:
    return Conversation.objects.owned_by(given(Conversation, "owner")).newest_first()


def _older() -> ConversationQuerySet:
    return _owned().older_than(
        updated_at=given(Conversation, "updated_at"), pk=given(Conversation, "id")
    )


_ALL = Select(lambda: _owned().values_list("pk", "title", "created_at"))
_OLDER = Select(lambda: _older().values_list("pk", "title", "created_at"))
