"""What a client asks of chat, in whatever form it came."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from accounts.idempotency import Once
from conversations.asked import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """
    A turn to be answered, from a knowledge base if one is named.

    With `same_base` an answer that rested on a base is written anew from that one.
    """

    conversation_id: int
    asked: Asked
    knowledge_base_id: uuid.UUID | None = None
    same_base: bool = False
    top_k: int = 5
    key: Once | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """
    A stream to be read: from an event's id on, or the answer being written now.

    `replay` is for the repeated request of an Idempotency-Key: it is answered in full,
    however much of it the client has seen.
    """

    conversation_id: int
    last_event_id: str = ""
    replay: bool = False
