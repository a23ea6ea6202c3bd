"""Conversations in the admin: read-only, and what was said only where it is allowed."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext, gettext_lazy as _, ngettext

from accounts.content_admin import ContentAdmin
from accounts.models import User
from conversations import lifecycle
from conversations.models import Conversation, Message
from llmbackend.errors import NotFound, error_of
from llmbackend.readonly_admin import counted

UNFINISHED = (
    Message.Status.FAILED,
    Message.Status.TRUNCATED,
    Message.Status.INTERRUPTED,
)


@admin.register(Conversation)
class ConversationAdmin(ContentAdmin):
    list_display = ["id", "owner", "model", "has_key", "message_count", "updated_at"]
    list_select_related = ["owner"]
    search_fields = ["=id"]
    search_help_text = _("An id, or a user name; whole.")
    fields = [
        *["id", "owner", "model", "key", "temperature", "top_p", "max_tokens"],
        *["message_link", "created_at", "updated_at"],
    ]
    # The title is the first question, shortened.
    content_fields = ("title", "system_prompt")
    ordering = ["-updated_at"]
    sortable_by = ["updated_at"]
    actions = ["clear_keys"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        rows = super().get_queryset(request)
        return rows.annotate(message_count=counted(Conversation, "messages"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        found = queryset.none()
        if not term or term.isdecimal():
            found, _distinct = super().get_search_results(request, queryset, term)
        user = User.objects.named(term)
        # Anybody may be called like an id.
        return (found if user is None else found | queryset.filter(owner=user)), False

    def delete_model(self, request: HttpRequest, obj: Conversation) -> None:
        lifecycle.remove(
            Conversation.objects.all(), conversation_id=obj.pk, by=request.user.pk
        )

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[Conversation]
    ) -> None:
        for conversation in queryset:
            # Somebody else may just have deleted it.
            with suppress(NotFound):
                self.delete_model(request, conversation)

    def has_clear_keys_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("conversations.change_conversation")

    @admin.action(
        permissions=["clear_keys"],
        description=_("Clear the API keys of selected conversations"),
    )
    def clear_keys(
        self, request: HttpRequest, queryset: QuerySet[Conversation]
    ) -> None:
        ids = queryset.values_list("pk", flat=True)
        cleared = lifecycle.clear_keys(ids, by=request.user.pk)
        message = ngettext(
            "The API key of %(count)d conversation was cleared.",
            "The API keys of %(count)d conversations were cleared.",
            cleared,
        )
        self.message_user(request, message % {"count": cleared}, messages.SUCCESS)

    @admin.display(description=_("messages"))
    def message_count(self, conversation: Any) -> int:
        return conversation.message_count

    @admin.display(description=_("messages"))
    def message_link(self, conversation: Any) -> str:
        page = reverse("admin:conversations_message_changelist")
        count = conversation.message_count
        return format_html('<a href="{}?q={}">{}</a>', page, conversation.pk, count)

    @admin.display(description=_("own API key"), boolean=True)
    def has_key(self, conversation: Conversation) -> bool:
        return bool(conversation.api_key)

    @admin.display(description=_("own API key"))
    def key(self, conversation: Conversation) -> str:
        if not conversation.api_key:
            return self.get_empty_value_display()
        return lifecycle.key_hint(conversation) or gettext("stored; cannot be read")


@admin.register(Message)
class MessageAdmin(ContentAdmin):
    list_display = [
        *["place", "role", "status", "error_code", "model", "tokens", "first_token"],
        "created_at",
    ]
    list_filter = ["status", "role"]
    search_fields = ["=conversation__id"]
    search_help_text = _("A conversation's id, a user name or an error code; whole.")
    fields = [
        *["conversation", "number", "role", "status", "finish_reason", "error_code"],
        *["reason", "model", "provider", "prompt_tokens", "completion_tokens"],
        *["tokens_estimated", "first_token", "created_at", "first_token_at"],
        "finished_at",
    ]
    content_fields = ("content", "reasoning", "sources")
    ordering = ["-pk"]
    sortable_by = ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term or term.isdecimal():
            found, _distinct = super().get_search_results(request, queryset, term)
        else:
            # The index of the states leads to the few that have a code.
            found = queryset.filter(status__in=UNFINISHED, error_code=term)
        user = User.objects.named(term)
        if user is None:
            return found, False
        mine = queryset.filter(conversation__in=Conversation.objects.filter(owner=user))
        # Anybody may be called like an id or a code; only then both are looked for.
        return (found | mine if found.exists() else mine), False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # A message goes with its conversation, and not alone.
        return False

    @admin.display(description=_("conversation/number"))
    def place(self, message: Message) -> str:
        return f"{message.conversation_id}/{message.number}"

    @admin.display(description=_("tokens, prompt/answer"))
    def tokens(self, message: Message) -> str | None:
        if message.prompt_tokens is None:
            return None
        return f"{message.prompt_tokens}/{message.completion_tokens}"

    @admin.display(description=_("first token, ms"))
    def first_token(self, message: Message) -> int | None:
        if message.first_token_at is None:
            return None
        waited = message.first_token_at - message.created_at
        return round(waited / timedelta(milliseconds=1))

    @admin.display(description=_("reason"))
    def reason(self, message: Message) -> str:
        if not message.error_code:
            return self.get_empty_value_display()
        return gettext(str(error_of(message.error_code)))
