"""Bearer authentication for DRF views."""

from __future__ import annotations

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.models import User
from accounts.tokens import Claims, bearer_token, claims_of, user_for


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`; without the header the request is anonymous."""

    def authenticate(self, request: Request) -> tuple[User, Claims] | None:
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if not header:
            return None
        claims = claims_of(bearer_token(header))
        return user_for(claims), claims

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="llmbackend"'
