"""Chat paths that do not stream."""

from django.urls import re_path

from chat.views import ChatViewSet

urlpatterns = [
    re_path(r"^api/chat/models/?$", ChatViewSet.as_view({"get": "models"})),
]
