"""The base and the passages that answers rest on, as they are stored."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import Any

from accounts.models import User
from conversations.asked import Asked, Edit, Question
from conversations.branches import nodes_of, path_to
from conversations.models import Conversation, Message
from conversations.turns import Turn
from conversations.writers import held_by


def base_before(*, user: User, conversation_id: int, asked: Asked) -> uuid.UUID | None:
    """The base of the answer that is edited away, written anew or continued."""
    if isinstance(asked, Question):
        return None
    conversation = Conversation.objects.owned_by(user).fetch(conversation_id)
    answers = Message.objects.filter(
        conversation=conversation, role=Message.Role.ASSISTANT
    )
    if isinstance(asked, Edit):
        nodes = nodes_of(conversation.pk)
        path = path_to(nodes, conversation.active_leaf_id)
        below = [
            node.pk
            for question, node in pairwise(path)
            if question.number == asked.message_id
        ]
        answers = answers.filter(pk__in=below)
    elif asked.message_id is None:
        answers = answers.filter(pk=conversation.active_leaf_id or 0)
    else:
        answers = answers.filter(number=asked.message_id)
    found = answers.values_list("knowledge_base_id", "sources").first()
    base_id, sources = found or (None, [])
    # Answers that were imported or are of earlier versions have it in these alone.
    return base_id or (uuid.UUID(sources[0]["kb_id"]) if sources else None)


def note_sources(*, turn: Turn, writer: uuid.UUID, sources: list[Any]) -> None:
    """Store what an answer rests on, before it begins."""
    held_by(writer).filter(pk=turn.answer_pk).update(sources=sources)
