"""Streaming paths -> consumers."""

from __future__ import annotations

from typing import Any

from django.urls import re_path

from chat.answers import Answers
from chat.consumers import ChatConsumer, RagChatConsumer, WatchConsumer
from chat.websocket import ChatSocket


def streaming_routes(answers: Answers) -> list[Any]:
    """What is answered by a consumer; every other path is Django's."""
    chat = ChatConsumer.as_asgi(answers=answers)
    return [
        re_path(r"^api/chat/(?!models/?$)(?P<conversation_id>[^/]+)/?$", chat),
        *(
            re_path(
                rf"^api/chat/(?P<conversation_id>[^/]+)/{deed}/?$", chat, {"deed": deed}
            )
            for deed in ("regenerate", "continue", "edit")
        ),
        re_path(
            r"^api/chat/(?P<conversation_id>[^/]+)/stream/?$",
            WatchConsumer.as_asgi(answers=answers),
        ),
        re_path(r"^api/rag/chat/?$", RagChatConsumer.as_asgi(answers=answers)),
    ]


def socket_routes(answers: Answers) -> list[Any]:
    """WebSocket paths."""
    return [
        re_path(
            r"^ws/chat/(?P<conversation_id>[^/]+)/?$",
            ChatSocket.as_asgi(answers=answers),
        ),
    ]
