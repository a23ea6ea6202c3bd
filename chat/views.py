"""What can be asked about chat without a stream."""

from __future__ import annotations

from typing import Any, cast

from django.conf import settings
from rest_framework import viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import CHAT
from accounts.models import User
from accounts.tokens import Claims
from chat import tickets
from chat.answers import Answers
from chat.serializers import conversation_id_of, message_id_of
from conversations.models import Conversation
from conversations.turns import request_stop
from llmbackend.chat_models import usable_models


def owner_of(request: Request) -> User:
    return cast(User, request.user)


class ChatViewSet(viewsets.ViewSet):
    """The chat models, and what is done to a stream from outside it."""

    scopes = dict.fromkeys(("models", "stop", "ticket"), CHAT)

    def models(self, request: Request) -> Response:
        """What this server can use now; patterns stand for a provider's own names."""
        models = [
            {
                "model": usable.model,
                "provider": usable.provider,
                "needs_api_key": usable.needs_api_key,
            }
            for usable in usable_models(config=settings.CONFIG)
        ]
        return Response({"models": models})

    def stop(self, request: Request, conversation_id: str) -> Response:
        """Stop the answer being written; its text is kept."""
        found = request_stop(
            user=owner_of(request),
            conversation_id=conversation_id_of(conversation_id),
            message_id=message_id_of(cast(dict[str, Any], request.data)),
        )
        if found is None:
            return Response(
                {"message": "No answer was being written", "stopped": False}
            )
        answer_pk, message_id = found
        answers: Answers = request.scope["answers"]  # type: ignore[attr-defined]
        answers.stop_soon(answer_pk)
        return Response(
            {"message": "Answer stopped", "stopped": True, "message_id": message_id}
        )

    def ticket(self, request: Request, conversation_id: str) -> Response:
        """What a browser's EventSource reads this conversation's stream with."""
        mine = Conversation.objects.owned_by(owner_of(request))
        conversation = mine.fetch(conversation_id_of(conversation_id))
        ticket = tickets.issue(
            cast(Claims, request.auth), conversation_id=conversation.pk
        )
        return Response(
            {"ticket": ticket, "expires_in": tickets.LIFETIME},
            headers={"Cache-Control": "no-store"},
        )
