"""Conversations in the admin: read-only, without what was said and without keys."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from conversations import lifecycle
from conversations.models import Conversation, Message
from llmbackend.readonly_admin import ReadOnlyAdmin


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin):
    list_display = ["id", "title", "owner", "model", "message_count", "updated_at"]
    list_select_related = ["owner"]
    search_fields = ["=id", "title", "owner__username"]
    fields = ["id", "title", "owner", "model", "created_at", "updated_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        return Conversation.objects.annotate(message_count=Count("messages"))

    def delete_model(self, request: HttpRequest, obj: Conversation) -> None:
        lifecycle.remove(
            Conversation.objects.all(), conversation_id=obj.pk, by=request.user.pk
        )

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[Conversation]
    ) -> None:
        for conversation in queryset:
            self.delete_model(request, conversation)

    @admin.display(description=_("messages"), ordering="message_count")
    def message_count(self, conversation: Any) -> int:
        return conversation.message_count


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    list_display = [
        "conversation_id",
        "number",
        "role",
        "status",
        "error_code",
        "model",
        "created_at",
    ]
    list_filter = ["status", "role"]
    search_fields = ["=conversation__id", "error_code", "model"]
    fields = [
        *["conversation_id", "number", "role", "status", "finish_reason"],
        *["error_code", "model", "provider", "prompt_tokens", "completion_tokens"],
        *["created_at", "first_token_at", "finished_at"],
    ]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # A message goes with its conversation, and not alone.
        return "/message/" not in request.path
