"""What can be asked about chat without a stream."""

from __future__ import annotations

import math
from typing import Any, cast

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import ACCOUNT, CHAT
from accounts.limits import NAMES
from accounts.models import User
from accounts.tokens import Claims
from chat import tickets
from chat.answers import Answers
from chat.serializers import conversation_id_of, message_id_of
from conversations import allowances
from conversations.models import Conversation
from conversations.serializers import PeriodSerializer
from conversations.turns import request_stop
from conversations.usage import Spent, spent_by_day
from llmbackend.chat_models import usable_models
from llmbackend.resource import Resource
from rag import quota


def owner_of(request: Request) -> User:
    return cast(User, request.user)


class ChatViewSet(Resource):
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


class UsageViewSet(Resource):
    """What the answers of a user cost, and what is left of their limits."""

    scopes = {"list": ACCOUNT}

    def list(self, request: Request) -> Response:
        asked = PeriodSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        period, owner = asked.validated_data, owner_of(request)
        days = spent_by_day(owner=owner, **period)
        return Response(
            {
                **{name: day.isoformat() for name, day in period.items()},
                "total": spent_body(sum((row.spent for row in days), Spent())),
                "days": [
                    {
                        "day": row.day.isoformat(),
                        "model": row.model,
                        **spent_body(row.spent),
                    }
                    for row in days
                ],
                "limits": limits_body(owner),
            }
        )


def spent_body(spent: Spent) -> dict[str, int]:
    return {
        "answers": spent.answers,
        "estimated_answers": spent.estimated_answers,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
    }


def limits_body(owner: User) -> dict[str, Any]:
    """Every limit by its name; null where there is none."""
    body: dict[str, Any] = dict.fromkeys(NAMES)
    for each in (*allowances.allowances_of(owner), *quota.allowances_of(owner)):
        body[each.limit] = {
            "allowed": each.allowed,
            "remaining": each.left,
            "reset_time": each.ends_at and math.ceil(each.ends_at.timestamp()),
        }
    return body
