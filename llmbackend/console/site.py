"""The admin's site: Django's, with a start page and what is known of providers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from accounts import audit
from llmbackend.console import start


class Site(admin.AdminSite):
    site_header = site_title = "llmbackend"
    index_title = _("Overview")
    index_template = "console/index.html"

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        shown = {"charts": list(start.charts(request)), **(extra_context or {})}
        return super().index(request, shown)

    def logout(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        user = request.user
        response = super().logout(request, extra_context)
        if user.is_authenticated:
            audit.record(audit.Action.LOGGED_OUT, by=user.pk, on=user)
        return response
