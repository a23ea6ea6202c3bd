"""The document of the API, and two pages that show it; they load nothing from afar."""

from __future__ import annotations

from django.http import HttpResponse
from django.template.loader import render_to_string
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

from llmbackend.http import OneForm
from llmbackend.openapi.document import rendered
from llmbackend.resource import Resource

# The pages set styles from their scripts; Redoc searches in a worker of its own making.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class DescriptionViewSet(Resource):
    """For anybody: what the API is like is no secret."""

    content_negotiation_class = OneForm
    authentication_classes = ()
    permission_classes = (AllowAny,)

    def document(self, request: Request) -> HttpResponse:
        return HttpResponse(rendered(), content_type="application/json")

    def swagger(self, request: Request) -> HttpResponse:
        return page("llmbackend/swagger.html")

    def redoc(self, request: Request) -> HttpResponse:
        return page("llmbackend/redoc.html")


def page(template: str) -> HttpResponse:
    headers = {"Content-Security-Policy": POLICY}
    return HttpResponse(render_to_string(template), headers=headers)
