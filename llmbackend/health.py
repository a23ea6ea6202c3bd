"""Whether the process lives, whether it can work, and what it counted."""

from __future__ import annotations

import hmac

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.http import HttpResponse
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.tokens import bearer_token
from llmbackend import cache, metrics, tables
from llmbackend.errors import NotFound, Unauthorized
from llmbackend.http import OneForm
from llmbackend.resource import Resource


class HealthViewSet(Resource):
    """For load balancers and supervisors; no token."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def alive(self, request: Request) -> Response:
        """The process answers; nothing else is asked."""
        return Response({"status": "ok"})

    def ready(self, request: Request) -> Response:
        """Database, migrations and shutdown decide; without Redis it is degraded."""
        checks = {"database": database_state(), "redis": redis_state()}
        if request.scope.get("draining"):  # type: ignore[attr-defined]
            checks["server"] = "restarting"
        down = {checks["database"], checks.get("server", "ok")} - {"ok"}
        degraded = checks["redis"] not in {"ok", "not configured"}
        status = "unavailable" if down else "degraded" if degraded else "ok"
        if not down:
            return Response({"status": status, **checks})
        headers = {"Retry-After": "2"}
        return Response({"status": status, **checks}, status=503, headers=headers)


class MetricsViewSet(Resource):
    """For Prometheus, with the token of the config; without one it is not there."""

    content_negotiation_class = OneForm
    authentication_classes = ()
    permission_classes = (AllowAny,)

    def show(self, request: Request) -> HttpResponse:
        token = settings.CONFIG.metrics.token
        if not token or metrics.instruments() is None:
            raise NotFound
        given = bearer_token(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise Unauthorized
        return HttpResponse(metrics.exposition(), content_type=metrics.CONTENT_TYPE)


def database_state() -> str:
    """`ok`, `unreachable` or `not migrated`."""
    try:
        return "ok" if tables.are_migrated() else "not migrated"
    except (DatabaseError, InterfaceError):
        return "unreachable"


def redis_state() -> str:
    """`ok`, `slow`, `refusing`, `unreachable`, or `not configured`."""
    if not settings.CONFIG.redis.address:
        return "not configured"
    return cache.state()
