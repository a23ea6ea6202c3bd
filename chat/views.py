"""What can be asked about chat without a stream."""

from __future__ import annotations

from django.conf import settings
from rest_framework import viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from llmbackend.chat_models import usable_models


class ChatViewSet(viewsets.ViewSet):
    """The chat models."""

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
