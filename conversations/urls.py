"""Conversation paths."""

from django.urls import re_path

from conversations.views import ConversationViewSet as Conversations

urlpatterns = [
    re_path(r"^api/conversations/create/?$", Conversations.as_view({"post": "create"})),
    re_path(r"^api/conversations/list/?$", Conversations.as_view({"get": "list"})),
    re_path(r"^api/conversations/search/?$", Conversations.as_view({"get": "search"})),
    re_path(
        r"^api/conversations/import/?$", Conversations.as_view({"post": "take_in"})
    ),
    re_path(
        r"^api/conversations/history/(?P<conversation_id>[^/]+)/?$",
        Conversations.as_view({"get": "history"}),
    ),
    re_path(
        r"^api/conversations/(?P<conversation_id>[^/]+)/branch/?$",
        Conversations.as_view({"post": "branch"}),
    ),
    re_path(
        r"^api/conversations/(?P<conversation_id>[^/]+)/duplicate/?$",
        Conversations.as_view({"post": "duplicate"}),
    ),
    re_path(
        r"^api/conversations/(?P<conversation_id>[^/]+)/export/?$",
        Conversations.as_view({"get": "export"}),
    ),
    re_path(
        r"^api/conversations/del/(?P<conversation_id>[^/]+)/?$",
        Conversations.as_view({"post": "destroy"}),
    ),
    # After the paths of one word, which would be taken for an id.
    re_path(
        r"^api/conversations/(?P<conversation_id>[^/]+)/?$",
        Conversations.as_view({"get": "retrieve", "patch": "partial_update"}),
    ),
]
