"""Which route a path is of, as documents write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

UNKNOWN = "unknown"
# Each with all below it: their paths are not the API's.
WHOLE = {r"admin(?:/.*)?": "/admin/", r"static/.*": "/static/"}


class Routes:
    """
    The routes of a serving process: `consumers`, then those of Django.

    They are looked up at the first question, not before.
    """

    def __init__(self, consumers: Iterable[Any]) -> None:
        self._consumers = list(consumers)

    def name_of(self, path: str) -> str:
        """Such as /api/chat/:conversation_id; UNKNOWN for what no route answers."""
        pattern, names = self._table
        found = pattern.fullmatch(path.removeprefix("/"))
        return names[found.lastindex - 1] if found and found.lastindex else UNKNOWN

    @cached_property
    def _table(self) -> tuple[re.Pattern[str], list[str]]:
        """One expression with a group for each route, and what each is called."""
        found = {
            expression: "/" + readable(expression)
            for expression in expressions(
                [*self._consumers, *get_resolver().url_patterns]
            )
        }
        table = {plain(expression): name for expression, name in found.items()} | WHOLE
        return re.compile("|".join(f"({each})" for each in table)), list(table.values())


def expressions(patterns: Iterable[Any]) -> Iterator[str]:
    """The regular expressions of all routes but the admin's."""
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            yield str(pattern.pattern)
        elif isinstance(pattern, URLResolver) and not str(pattern.pattern):
            yield from expressions(pattern.url_patterns)


def plain(expression: str) -> str:
    """Without names and ends: they are to stand beside each other."""
    expression = re.sub(r"\(\?P<\w+>", "(?:", expression)
    return expression.removeprefix("^").removesuffix("$")


def readable(expression: str) -> str:
    """
    A pattern without its regular expressions.

    >>> readable(r"^api/chat/(?!models/?$)(?P<conversation_id>[^/]+)/?$")
    'api/chat/:conversation_id'
    """
    expression = re.sub(r"\(\?![^)]*\)", "", expression)
    expression = re.sub(r"\(\?P<(\w+)>(?:[^()]|\([^()]*\))*\)", r":\1", expression)
    expression = re.sub(r"<(?:\w+:)?(\w+)>", r":\1", expression)
    return expression.removeprefix("^").removesuffix("$").removesuffix("/?")
