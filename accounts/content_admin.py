"""What people wrote, in the admin: shown where it is allowed, and that is noted."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from accounts import audit
from llmbackend.readonly_admin import ReadOnlyAdmin


def shows_contents() -> bool:
    """Whether config.yaml lets administrators read what others wrote."""
    return bool(settings.CONFIG.admin.show_contents)


def note_view(request: HttpRequest, on: Model) -> None:
    """Put into the audit log that a visitor is shown what `on` holds."""
    audit.record(audit.Action.VIEWED, by=request.user.pk, on=on)


class ContentAdmin(ReadOnlyAdmin):
    """Shows `content_fields` of one row at a time, where that is allowed."""

    content_fields: tuple[str, ...] = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*self.content_fields)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_fields(request, obj)
        return [*fields, *self.content_fields] if shows_contents() else fields

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        if obj is not None and shows_contents():
            note_view(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)
