"""A user's own conversations; someone else's do not exist here."""

from __future__ import annotations

import hashlib
from typing import Any, cast

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import CHAT
from accounts.idempotency import once
from accounts.models import User
from conversations import branches, lifecycle
from conversations.copies import duplicate, take_in
from conversations.history import Said, history, page_of
from conversations.incoming import TextParser, incoming
from conversations.listing import listed
from conversations.models import Conversation, Message
from conversations.portable import disposition, document, markdown, portable
from conversations.search import Hit, Place, search
from conversations.serializers import (
    BranchSerializer,
    ChangesSerializer,
    ExportSerializer,
    HistorySerializer,
    ListSerializer,
    NewConversationSerializer,
    SearchSerializer,
)
from llmbackend.errors import NotFound
from llmbackend.resource import Resource


class ConversationViewSet(Resource):
    """Create, list, read, change, choose a branch, and delete."""

    scopes = dict.fromkeys(
        (
            *("create", "list", "retrieve", "partial_update"),
            *("history", "search", "branch", "duplicate", "export", "destroy"),
            "take_in",
        ),
        CHAT,
    )

    def get_parsers(self) -> list[Any]:
        if self.request and self.request.path.rstrip("/").endswith("/import"):
            return [TextParser()]
        return super().get_parsers()

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        # A file is what it is whatever is accepted, and its errors are JSON.
        return super().perform_content_negotiation(
            request, force or self.action == "export"
        )

    def create(self, request: Request) -> Response:
        asked = NewConversationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        fields = asked.validated_data
        api_key = fields.get("api_key") or ""
        conversation = lifecycle.create(
            owner=cast(User, request.user),
            title=fields.get("title") or "",
            model=fields["model"],
            api_key=api_key,
            key=once(key_of(request), "create", fields),
        )
        body = {
            "conversation_id": conversation.pk,
            "title": conversation.title,
            "model": conversation.model,
            "api_key": api_key,
            "created_time": int(conversation.created_at.timestamp()),
        }
        return Response(body, headers={"Cache-Control": "no-store"})

    def list(self, request: Request) -> Response:
        asked = ListSerializer.fields_of(request.query_params)
        limit = asked.get("limit")
        # One more than the page, to know whether it is the last.
        found = listed(
            owner=cast(User, request.user),
            before=asked.get("before"),
            limit=None if limit is None else limit + 1,
        )
        page = found[:limit]
        body = [
            {
                "conversation_id": pk,
                "title": title,
                "created_time": int(created_at.timestamp()),
            }
            for pk, title, created_at in page
        ]
        more = len(found) > len(page)
        return Response(body, headers=next_before(page[-1][0] if more else None))

    def search(self, request: Request) -> Response:
        asked = SearchSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        fields = asked.validated_data
        page = search(
            owner=cast(User, request.user),
            words=fields["q"],
            limit=fields["limit"],
            before=fields.get("before"),
        )
        body = [hit_body(hit) for hit in page.hits]
        return Response(body, headers=next_before(page.next))

    def retrieve(self, request: Request, conversation_id: str) -> Response:
        mine = Conversation.objects.owned_by(cast(User, request.user))
        return Response(conversation_body(mine.fetch(as_id(conversation_id))))

    def partial_update(self, request: Request, conversation_id: str) -> Response:
        asked = ChangesSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        changes = asked.validated_data
        if "api_key" in changes:
            changes["api_key"] = changes["api_key"] or ""
        conversation = lifecycle.change(
            owner=cast(User, request.user),
            conversation_id=as_id(conversation_id),
            changes=changes,
        )
        return Response(conversation_body(conversation))

    def history(self, request: Request, conversation_id: str) -> Response:
        asked = HistorySerializer.fields_of(request.query_params)
        conversation, messages = history(
            user=cast(User, request.user), conversation_id=as_id(conversation_id)
        )
        page = page_of(
            conversation,
            messages,
            before=asked.get("before_message_id"),
            limit=asked.get("limit"),
        )
        more = bool(page) and page[0] is not messages[0]
        body = {
            "conversation_id": conversation.pk,
            "title": conversation.title,
            "model": conversation.model,
            "messages": [message_body(message) for message in page],
            "created_time": int(conversation.created_at.timestamp()),
        }
        return Response(body, headers=next_before(page[0].message_id if more else None))

    def branch(self, request: Request, conversation_id: str) -> Response:
        asked = BranchSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        leaf = branches.choose(
            owner=cast(User, request.user),
            conversation_id=as_id(conversation_id),
            message_id=asked.validated_data["message_id"],
        )
        return Response({"message": "Branch chosen", "active_message_id": leaf})

    def duplicate(self, request: Request, conversation_id: str) -> Response:
        original = as_id(conversation_id)
        copy = duplicate(
            owner=cast(User, request.user),
            conversation_id=original,
            key=once(key_of(request), "duplicate", original),
        )
        return Response(conversation_body(copy))

    def export(self, request: Request, conversation_id: str) -> HttpResponse:
        asked = ExportSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        ending = asked.validated_data.get("format") or preferred_form(request)
        conversation, said = history(
            user=cast(User, request.user), conversation_id=as_id(conversation_id)
        )
        response: HttpResponse
        if ending == "md":
            text = markdown(conversation, said)
            response = HttpResponse(text, content_type="text/markdown; charset=utf-8")
        else:
            response = Response(document(portable(conversation)))
        response["Content-Disposition"] = disposition(conversation, ending=ending)
        response["Cache-Control"] = "no-store"
        return response

    def take_in(self, request: Request) -> Response:
        text = dict(request.data).get("text", "")
        digest = hashlib.sha256(text.encode()).hexdigest()
        made = take_in(
            owner=cast(User, request.user),
            found=list(incoming(text)),
            key=once(key_of(request), "import", digest),
        )
        ids = [{"conversation_id": one.pk, "title": one.title} for one in made]
        return Response({"conversations": ids})

    def destroy(self, request: Request, conversation_id: str) -> Response:
        lifecycle.delete(
            owner=cast(User, request.user), conversation_id=as_id(conversation_id)
        )
        return Response({"message": "Conversation deleted successfully"})


def key_of(request: Request) -> str:
    """The key under which a request is carried out once; empty: it has none."""
    return request.headers.get("Idempotency-Key", "")


def preferred_form(request: Request) -> str:
    """`md` where the Accept header would rather have that than JSON."""
    kinds = ["application/json", "text/markdown"]
    preferred = request._request.get_preferred_type(kinds)
    return "md" if preferred == "text/markdown" else "json"


def as_id(text: str) -> int:
    """The conversation id a path names; what is no number names nothing."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise NotFound
    return int(text)


def hit_body(hit: Hit) -> dict[str, Any]:
    """What a search found; of a title, message_id and role are null."""
    return {
        "conversation_id": hit.place.conversation_id,
        "title": hit.title,
        "message_id": hit.place.message_id,
        "role": hit.role or None,
        "snippet": hit.snippet.text,
        "ranges": hit.snippet.ranges,
    }


def next_before(item_id: int | Place | None) -> dict[str, str]:
    """The header that says where the next page begins; none after the last."""
    return {} if item_id is None else {"X-Next-Before": str(item_id)}


def conversation_body(conversation: Conversation) -> dict[str, Any]:
    """A conversation with its settings, of its key only whether there is one."""
    return {
        "conversation_id": conversation.pk,
        "title": conversation.title,
        "model": conversation.model,
        "has_api_key": bool(conversation.api_key),
        "system_prompt": conversation.system_prompt,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "max_tokens": conversation.max_tokens,
        "created_time": int(conversation.created_at.timestamp()),
        "updated_time": int(conversation.updated_at.timestamp()),
    }


def message_body(message: Said) -> dict[str, Any]:
    """A message as the seed shows it, with status and sources where they tell."""
    body: dict[str, Any] = {
        "role": message.role,
        "content": message.content,
        "message_id": message.message_id,
    }
    if message.status != Message.Status.COMPLETE:
        body["status"] = message.status
    if message.finish_reason not in {"", "stop"}:
        body["finish_reason"] = message.finish_reason
    if message.sources:
        body["sources"] = message.sources
    if message.siblings:
        body["siblings"] = message.siblings
    return body
