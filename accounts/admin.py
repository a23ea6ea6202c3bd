"""Users in the admin."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _, ngettext

from accounts import api_keys, audit, lifecycle, logins
from accounts.audit import Action
from accounts.credentials import authenticated
from accounts.limits import NAMES
from accounts.models import ApiKey, AuditEntry, User, folded
from accounts.own_password import too_many
from llmbackend.errors import InvalidCredentials, RateLimited
from llmbackend.http import address_of
from llmbackend.readonly_admin import CountedDeletion, ReadOnlyAdmin, counted


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
            raise too_many(exc) from exc
        try:
            self.confirm_login_allowed(user)
        except ValidationError:
            audit.record_failure(username=username)
            raise
        audit.record(Action.LOGGED_IN, by=user.pk, on=user)
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

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        api_keys.end(obj, by=request.user.pk)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            api_keys.end(key, by=request.user.pk)


# What an account may do; the last two are lists.
ROLES = ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")


def told(user: User, role: str) -> str:
    """How a role stands, as the audit log has it."""
    value = getattr(user, role)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "changed"


def columns_changed(user: User, names: Collection[str]) -> set[str]:
    """What is to be stored where a form changed the fields of these `names`."""
    columns = {field.name for field in User._meta.concrete_fields}.intersection(names)
    if "username" in columns:
        columns.add("username_folded")
    if "is_active" in columns:
        user.token_version = F("token_version") + 1
        columns.add("token_version")
    return columns


@admin.register(User)
class UserAdmin(CountedDeletion, DjangoUserAdmin):
    list_display = [
        *["username", "is_active", "is_staff", "tokens_ended", "conversation_count"],
        *["base_count", "last_login"],
    ]
    list_filter = ["is_active", "is_staff", "is_superuser"]
    sortable_by = ["username"]
    search_fields = ["username_folded", "email"]
    readonly_fields = ["last_login", "date_joined", "tokens_ended"]
    fieldsets = (
        *(DjangoUserAdmin.fieldsets or ()),
        (
            _("Limits"),
            {"fields": [f"max_{name}" for name in NAMES]},
        ),
    )
    actions = ["end_tokens", "deactivate"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        rows = super().get_queryset(request)
        return rows.annotate(
            conversation_count=counted(User, "conversations"),
            base_count=counted(User, "knowledge_bases"),
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Names by the form in which they are compared, too, however they are typed."""
        found, distinct = super().get_search_results(request, queryset, search_term)
        name = folded(search_term.strip())
        return found | queryset.filter(username_folded__contains=name), distinct

    @admin.display(description=_("tokens ended"))
    def tokens_ended(self, user: User) -> int:
        return user.token_version

    @admin.display(description=_("conversations"))
    def conversation_count(self, user: Any) -> int:
        return user.conversation_count

    @admin.display(description=_("knowledge bases"))
    def base_count(self, user: Any) -> int:
        return user.base_count

    @admin.action(
        permissions=["change"],
        description=_("Log out selected users everywhere"),
    )
    def end_tokens(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        ended = logins.end_all(queryset, by=request.user.pk)
        message = ngettext(
            "%(count)d user was logged out everywhere.",
            "%(count)d users were logged out everywhere.",
            ended,
        )
        self.message_user(request, message % {"count": ended})

    @admin.action(permissions=["change"], description=_("Deactivate selected users"))
    def deactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """But for who does it, who could not undo it."""
        others = queryset.exclude(username=request.user.get_username())
        ended = lifecycle.deactivate(others, by=request.user.pk)
        message = ngettext(
            "%(count)d user was deactivated.",
            "%(count)d users were deactivated.",
            ended,
        )
        self.message_user(request, message % {"count": ended})

    def save_model(
        self, request: HttpRequest, obj: User, form: Any, change: bool
    ) -> None:
        """
        Who was switched off and on again must sign in anew.

        Of an account that is changed, only what the form has changed is stored: its
        tokens may be ended, or its password set, meanwhile.
        """
        if change:
            obj.save(update_fields=columns_changed(obj, form.changed_data))
        else:
            super().save_model(request, obj, form, change)
        changed = [name for name in ROLES if name in form.changed_data]
        if changed:
            detail = ", ".join(f"{name}: {told(obj, name)}" for name in changed)
            audit.record(Action.ROLE_CHANGED, by=request.user.pk, on=obj, detail=detail)

    def user_change_password(
        self,
        request: HttpRequest,
        id: str,  # noqa: A002  It is Django's.
        form_url: str = "",
    ) -> HttpResponse:
        with transaction.atomic():
            before = self.get_object(request, unquote(id))
            response = super().user_change_password(request, id, form_url)
            user = self.get_object(request, unquote(id))
            if user and before and user.password != before.password:
                audit.record(Action.PASSWORD_SET, by=request.user.pk, on=user)
        return response

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        lifecycle.delete(obj, by=request.user.pk)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            lifecycle.delete(user, by=request.user.pk)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who did what; nobody removes any of it here."""

    list_display = ["at", "action", "actor", "object", "detail", "address"]
    list_filter = ["action"]
    search_fields = ["=object_id", "=address", "=request_id"]
    search_help_text = _("A user name, an id, an address or a request id, whole.")
    fields = ["at", "action", "actor", "object", "detail", "address", "request_id"]
    ordering = ["-pk"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        name = User.objects.filter(pk=OuterRef("actor_id")).values("username")
        rows = super().get_queryset(request)
        return rows.annotate(actor_name=Subquery(name))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        found, distinct = super().get_search_results(request, queryset, search_term)
        user = User.objects.named(search_term.strip())
        if user is None:
            return found, distinct
        about = Q(kind=User._meta.label_lower, object_id=str(user.pk))
        # Anybody may be called like an address, or like an id.
        return found | queryset.filter(Q(actor_id=user.pk) | about), distinct

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description=_("who"))
    def actor(self, entry: Any) -> str:
        if entry.actor_id is None:
            return self.get_empty_value_display()
        return entry.actor_name or f"#{entry.actor_id}"

    @admin.display(description=_("to what"))
    def object(self, entry: AuditEntry) -> str:
        if not entry.kind:
            return self.get_empty_value_display()
        return f"{apps.get_model(entry.kind)._meta.verbose_name} {entry.object_id}"
