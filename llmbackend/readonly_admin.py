"""What the admin's pages about rows have in common, however many rows there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, ValidationError
from django.db.models import Count, Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from llmbackend.paging import KeyPaginator

NAMED = 50
# The form that asks has a field for each, of DATA_UPLOAD_MAX_NUMBER_FIELDS.
MOST_DELETED = 5000
# How Django's filters of choices and of truth values look a field up.
OFFERED = frozenset(("", "exact", "isnull"))


class CountedDeletion(admin.ModelAdmin):  # type: ignore[type-arg]
    """Asks before a deletion with how many rows go along; Django's own names each."""

    show_full_result_count = False
    list_per_page = 50

    class Media:
        css = {"all": ["console/console.css"]}

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """
        By the filters of the page alone.

        Django lets an address filter by any field: by what is hidden, too, which could
        be guessed from what is found, piece by piece; and by what databases stumble
        over, regular expressions and null characters.
        """
        field, _, how = lookup.partition("__")
        is_offered = field in self.get_list_filter(request) and how in OFFERED
        return is_offered and "\0" not in value

    def get_paginator(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        per_page: int,
        *_args: Any,
        **_kwargs: Any,
    ) -> KeyPaginator:
        related: Any = self.list_select_related or ()
        rows = self.get_queryset(request).select_related(*related)
        return KeyPaginator(queryset, per_page, rows=rows)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        key: Any = self.opts.pk
        try:
            for chosen in request.POST.getlist(ACTION_CHECKBOX_NAME):
                key.clean(chosen, None)
        except ValidationError as exc:
            raise BadRequest("A row was chosen that cannot be one.") from exc
        return super().changelist_view(request, extra_context)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        if "delete_selected" in actions:
            _function, name, description = actions["delete_selected"]
            actions["delete_selected"] = (delete_bounded, name, description)
        return actions

    def log_deletions(self, request: HttpRequest, queryset: Any) -> list[Any]:
        """The audit log notes them; Django's own would keep what bore a name."""
        return []

    def get_deleted_objects(
        self, objs: QuerySet[Any] | Sequence[Model], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        named = [str(each) for each in objs[:NAMED]]
        count = objs.count() if isinstance(objs, QuerySet) else len(objs)
        if count > len(named):
            named.append(_("… and %(more)d more") % {"more": count - len(named)})
        counts = {str(self.opts.verbose_name_plural): count}
        for relation in self.opts.related_objects:
            if relation.one_to_many and not relation.hidden:
                below: Any = relation.related_model
                found = below._base_manager.filter(
                    **{f"{relation.field.name}__in": objs}
                )
                counts[str(below._meta.verbose_name_plural)] = found.count()
        counts = {name: count for name, count in counts.items() if count}
        lacking = not self.has_delete_permission(request)
        needed = {str(self.opts.verbose_name)} if lacking else set()
        return named, counts, needed, []


def delete_bounded(
    page: CountedDeletion, request: HttpRequest, queryset: QuerySet[Any]
) -> HttpResponse | None:
    """Django's own action, whose form names each row; of no more than fit into one."""
    if queryset.count() > MOST_DELETED:
        refusal = _("At most %(most)d can be deleted at once; choose fewer.")
        page.message_user(request, refusal % {"most": MOST_DELETED}, messages.ERROR)
        return None
    return delete_selected(page, request, queryset)


class ReadOnlyAdmin(CountedDeletion):
    """No adding and no changing: the API alone makes and changes these rows."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def counted(model: type[Model], relation: str) -> Coalesce:
    """
    How many rows of a relation a row has, to annotate `model` with.

    Counted for the rows that are shown; a join would be made for all.
    """
    field: Any = model._meta.get_field(relation)
    name = field.field.name
    rows = field.related_model._base_manager.filter(**{name: OuterRef("pk")})
    counts = rows.order_by().values(name).annotate(count=Count("*")).values("count")
    return Coalesce(Subquery(counts), 0)
