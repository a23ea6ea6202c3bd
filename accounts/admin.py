"""Users in the admin."""

from __future__ import annotations

import math
from typing import Any

from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy, ngettext

from accounts import lifecycle, logins
from accounts.credentials import authenticated
from accounts.limits import NAMES
from accounts.models import ApiKey, User
from llmbackend.errors import InvalidCredentials, RateLimited
from llmbackend.http import address_of
from llmbackend.readonly_admin import ReadOnlyAdmin


class LogInForm(AdminAuthenticationForm):
    """The admin's log-in, whose failures count like those of the API."""

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        username, password = given.get("username"), given.get("password")
        if not (username and password and self.request):
            return given
        try:
            user = authenticated(
                username=username,
                password=password,
                address=address_of(self.request),
            )
        except InvalidCredentials as exc:
            raise self.get_invalid_login_error() from exc
        except RateLimited as exc:
            minutes = math.ceil((exc.retry_after or 0) / 60)
            message = ngettext(
                "Too many failed log-ins; try again in %(minutes)d minute.",
                "Too many failed log-ins; try again in %(minutes)d minutes.",
                minutes,
            )
            raise ValidationError(message % {"minutes": minutes}) from exc
        self.confirm_login_allowed(user)
        self.user_cache = user
        return given


admin.site.login_form = LogInForm


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """Which keys there are; of a key itself only its end is known."""

    list_display = [
        *["name", "owner", "hint", "scopes", "created_at", "expires_at"],
        "last_used_at",
    ]
    list_select_related = ["owner"]
    search_fields = ["name", "owner__username", "=hint"]
    fields = [
        *["name", "owner", "hint", "scopes", "knowledge_bases", "chat_models"],
        *["created_at", "expires_at", "last_used_at"],
    ]


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    list_display = ["username", "is_active", "is_staff", "last_login", "date_joined"]
    readonly_fields = ["last_login", "date_joined"]
    fieldsets = (
        *(DjangoUserAdmin.fieldsets or ()),
        (
            gettext_lazy("Limits"),
            {"fields": [f"max_{name}" for name in NAMES]},
        ),
    )
    actions = ["end_tokens"]

    @admin.action(
        permissions=["change"],
        description=gettext_lazy("Log out selected users everywhere"),
    )
    def end_tokens(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        ended = logins.end_all(queryset)
        message = ngettext(
            "%(count)d user was logged out everywhere.",
            "%(count)d users were logged out everywhere.",
            ended,
        )
        self.message_user(request, message % {"count": ended})

    def save_model(
        self, request: HttpRequest, obj: User, form: Any, change: bool
    ) -> None:
        """Who was switched off and on again must sign in anew."""
        if "is_active" in form.changed_data:
            obj.token_version += 1
        super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        lifecycle.delete(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            lifecycle.delete(user)
