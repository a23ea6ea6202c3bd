"""Chat paths that do not stream."""

from django.urls import re_path

from chat.views import ChatViewSet, UsageViewSet

urlpatterns = [
    re_path(r"^api/users/me/usage/?$", UsageViewSet.as_view({"get": "list"})),
    re_path(r"^api/chat/models/?$", ChatViewSet.as_view({"get": "models"})),
    re_path(
        r"^api/chat/(?P<conversation_id>[^/]+)/stop/?$",
        ChatViewSet.as_view({"post": "stop"}),
    ),
    re_path(
        r"^api/chat/(?P<conversation_id>[^/]+)/ticket/?$",
        ChatViewSet.as_view({"post": "ticket"}),
    ),
]
