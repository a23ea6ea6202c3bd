"""Account paths."""

from django.urls import re_path

from accounts.views import (
    AccountViewSet as Account,
    ApiKeyViewSet as ApiKeys,
    LogInViewSet as LogIns,
    UserViewSet as Users,
)

urlpatterns = [
    re_path(r"^api/users/register/?$", Users.as_view({"post": "register"})),
    re_path(r"^api/users/login/?$", Users.as_view({"post": "login"})),
    re_path(r"^api/users/token/refresh/?$", Users.as_view({"post": "refresh"})),
    re_path(r"^api/users/logout/?$", LogIns.as_view({"post": "logout"})),
    re_path(r"^api/users/logout_all/?$", LogIns.as_view({"post": "logout_all"})),
    re_path(r"^api/users/password/?$", LogIns.as_view({"post": "password"})),
    re_path(
        r"^api/users/me/?$",
        Account.as_view({"get": "show", "patch": "change", "delete": "destroy"}),
    ),
    re_path(r"^api/users/keys/?$", ApiKeys.as_view({"get": "list", "post": "create"})),
    re_path(
        r"^api/users/keys/(?P<key_id>[^/]+)/?$",
        ApiKeys.as_view({"delete": "destroy"}),
    ),
]
