"""Every route of the project, read from the URL resolver and the consumer routes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from django.urls import URLPattern, URLResolver, get_resolver

from llmbackend.routes import readable

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Route:
    """
    `path` as documents write it: /api/chat/:conversation_id.

    `methods` are those a viewset or a consumer names.
    """

    path: str
    methods: frozenset[str]


def api_routes() -> list[Route]:
    """What is answered in JSON or as a stream: everything but the admin."""
    return [route for route in _all_routes() if not route.path.startswith("/admin/")]


def _all_routes() -> list[Route]:
    from chat.routing import streaming_routes

    streams = streaming_routes(cast(Any, None))
    return [*_routes_in(get_resolver().url_patterns), *_routes_in(streams)]


def socket_paths() -> list[str]:
    """The paths of WebSockets, as documents write them."""
    from chat.routing import socket_routes

    return [route.path for route in _routes_in(socket_routes(cast(Any, None)))]


def _routes_in(patterns: list[Any], prefix: str = "") -> Iterator[Route]:
    for pattern in patterns:
        path = prefix + readable(str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from _routes_in(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            actions = getattr(pattern.callback, "actions", None) or {}
            # HEAD is added to them by the first request.
            methods = {m for m in METHODS if m.lower() in actions}
            consumer = getattr(pattern.callback, "consumer_class", None)
            methods |= {m for m in METHODS if m == getattr(consumer, "method", "")}
            yield Route("/" + path, frozenset(methods))
