"""Account paths."""

from django.urls import re_path

from accounts.views import UserViewSet

urlpatterns = [
    re_path(r"^api/users/register/?$", UserViewSet.as_view({"post": "register"})),
    re_path(r"^api/users/login/?$", UserViewSet.as_view({"post": "login"})),
]
