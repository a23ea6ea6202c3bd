"""Pages of long lists."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet


class KeyPaginator(Paginator):  # type: ignore[type-arg]
    """
    Finds the keys of a page first, then takes these from `rows`.

    Rows before the page are skipped in an index, without what is joined to them, and
    what was searched for is not searched for twice.
    """

    def __init__(self, found: QuerySet[Any], per_page: int, *, rows: QuerySet[Any]):
        super().__init__(found, per_page)
        self._rows = rows

    def page(self, number: int | str) -> Page[Any]:
        number = self.validate_number(number)
        bottom = (number - 1) * self.per_page
        found: Any = self.object_list
        keys = found.select_related(None).values_list("pk", flat=True)
        page = list(keys[bottom : bottom + self.per_page])
        rows = self._rows.in_bulk(page)
        return Page([rows[key] for key in page if key in rows], number, self)
