"""REST paths -> apps."""

from django.contrib import admin
from django.urls import include, path, re_path

from llmbackend.health import HealthViewSet, MetricsViewSet
from llmbackend.openapi.views import DescriptionViewSet

# Those that are asked for all the time come first.
urlpatterns = [
    path("", include("conversations.urls")),
    path("", include("accounts.urls")),
    path("", include("rag.urls")),
    path("", include("chat.urls")),
    re_path(r"^healthz/?$", HealthViewSet.as_view({"get": "alive"})),
    re_path(r"^readyz/?$", HealthViewSet.as_view({"get": "ready"})),
    re_path(r"^metrics/?$", MetricsViewSet.as_view({"get": "show"})),
    re_path(r"^api/schema/?$", DescriptionViewSet.as_view({"get": "document"})),
    re_path(r"^api/docs/?$", DescriptionViewSet.as_view({"get": "swagger"})),
    re_path(r"^api/redoc/?$", DescriptionViewSet.as_view({"get": "redoc"})),
    path("admin/", admin.site.urls),
]

handler400 = "llmbackend.http.bad_request"
handler403 = "llmbackend.http.permission_denied"
handler404 = "llmbackend.http.not_found"
handler500 = "llmbackend.http.server_error"
