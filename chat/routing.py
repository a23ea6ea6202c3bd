"""Streaming paths -> consumers."""

from __future__ import annotations

from typing import Any

from django.urls import re_path

from chat.answers import Answers
from chat.consumers import ChatConsumer, RagChatConsumer


def streaming_routes(answers: Answers) -> list[Any]:
    """What is answered by a consumer; every other path is Django's."""
    return [
        re_path(
            r"^api/chat/(?!models/?$)(?P<conversation_id>[^/]+)/?$",
            ChatConsumer.as_asgi(answers=answers),
        ),
        re_path(r"^api/rag/chat/?$", RagChatConsumer.as_asgi(answers=answers)),
    ]
