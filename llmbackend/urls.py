"""REST paths -> apps."""

from django.contrib import admin
from django.urls import include, path, re_path

from llmbackend.health import HealthViewSet, MetricsViewSet
from llmbackend.openapi.views import DescriptionViewSet

urlpatterns = [
    re_path(r"^healthz/?$", HealthViewSet.as_view({"get": "alive"})),
    re_path(r"^readyz/?$", HealthViewSet.as_view({"get": "ready"})),
    re_path(r"^metrics/?$", MetricsViewSet.as_view({"get": "show"})),
    re_path(r"^api/schema/?$", DescriptionViewSet.as_view({"get": "document"})),
    re_path(r"^api/docs/?$", DescriptionViewSet.as_view({"get": "swagger"})),
    re_path(r"^api/redoc/?$", DescriptionViewSet.as_view({"get": "redoc"})),
    path("", include("accounts.urls")),
    path("", include("conversations.urls")),
    path("", include("rag.urls")),
    path("", include("chat.urls")),
    path("admin/", admin.site.urls),
]

handler400 = "llmbackend.http.bad_request"
handler403 = "llmbackend.http.permission_denied"
handler404 = "llmbackend.http.not_found"
handler500 = "llmbackend.http.server_error"
