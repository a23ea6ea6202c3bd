"""The admin's site: Django's, with a start page and what is known of providers."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.translation import gettext, gettext_lazy as _

from accounts import audit
from accounts.models import User
from accounts.own_password import OwnPasswordView
from llmbackend.console import start


class Site(admin.AdminSite):
    site_header = site_title = "llmbackend"
    index_title = _("Overview")
    site_url = "/api/docs"
    index_template = "console/index.html"

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        shown = {"charts": list(start.charts(request)), **(extra_context or {})}
        return super().index(request, shown)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        view = self.admin_view(self.providers)
        # A row has no page on the site; where Django leads to it, it fails over UUIDs.
        urls = [
            each
            for each in super().get_urls()
            if getattr(each, "name", "") != "view_on_site"
        ]
        return [path("providers/", view, name="providers"), *urls]

    def providers(self, request: HttpRequest) -> HttpResponse:
        # It imports the SDK, which no command that only loads the admin is to wait for.
        from llmbackend.console import providers

        return providers.page(request, self.each_context(request))

    def password_change(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Django's page, with a form of ours."""
        shown = {**self.each_context(request), **(extra_context or {})}
        view = OwnPasswordView.as_view(extra_context=shown)
        return cast(TemplateResponse, view(request))

    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[Any]:
        """Django's, and for superusers what is no table."""
        listed = super().get_app_list(request, app_label)
        if app_label is None and request.user.is_superuser:
            page = reverse("admin:providers")
            model = {
                "name": gettext("Providers"),
                "object_name": "providers",
                "admin_url": page,
                "view_only": True,
            }
            listed.append(
                {
                    "name": gettext("Operation"),
                    "app_label": "operation",
                    "app_url": page,
                    "models": [model],
                }
            )
        return listed

    def logout(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        user = User.objects.named(request.user.get_username())
        response = super().logout(request, extra_context)
        if user is not None and not request.user.is_authenticated:
            audit.record(audit.Action.LOGGED_OUT, by=user.pk, on=user)
        return response
