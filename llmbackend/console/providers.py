"""The admin's page of providers: what config.yaml says, and if they are reached."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from llmbackend.chat_models import usable_models
from llmbackend.checkup import provider_findings
from rag.embedding_models import embedding_models


def page(request: HttpRequest, site_context: dict[str, Any]) -> HttpResponse:
    """For superusers; a POST asks each provider, which takes seconds at most."""
    if not request.user.is_superuser:
        raise PermissionDenied
    config = settings.CONFIG
    findings: list[Any] = [None] * len(config.providers)
    if request.method == "POST":
        # Nothing of the database is held while others are waited for.
        connection.close()
        findings = provider_findings()
    providers = [
        {
            "name": provider.name,
            "base_url": provider.base_url,
            "has_key": bool(provider.api_key),
            "chat_models": provider.chat_models,
            "embedding_models": provider.embedding_models,
            "finding": finding,
        }
        for provider, finding in zip(config.providers, findings, strict=True)
    ]
    context = {
        **site_context,
        "title": _("Providers"),
        "providers": providers,
        "chat_models": [model.model for model in usable_models(config=config)],
        "embedding_models": [model.name for model in embedding_models(config)],
    }
    return TemplateResponse(request, "console/providers.html", context)
