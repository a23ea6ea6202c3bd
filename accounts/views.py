"""Registration, log-in and log-out."""

from __future__ import annotations

from typing import cast

from rest_framework import viewsets
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import logins
from accounts.credentials import authenticated
from accounts.logins import Tokens
from accounts.models import User
from accounts.registration import check_open, register
from accounts.serializers import (
    CredentialsSerializer,
    RefreshSerializer,
    RegistrationSerializer,
)
from accounts.throttles import count_registration
from accounts.tokens import Claims
from llmbackend.http import address_of


class UserViewSet(viewsets.ViewSet):
    """What can be asked without a token: an account, and tokens for it."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def register(self, request: Request) -> Response:
        check_open()
        asked = RegistrationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        count_registration(address_of(request))
        register(**asked.validated_data)
        return Response({"message": "User registered successfully"}, status=201)

    def login(self, request: Request) -> Response:
        given = CredentialsSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        user = authenticated(**given.validated_data, address=address_of(request))
        return told(logins.begin(user))

    def refresh(self, request: Request) -> Response:
        given = RefreshSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return told(logins.renew(given.validated_data["refresh"]))


class LogInViewSet(viewsets.ViewSet):
    """What ends a log-in."""

    def logout(self, request: Request) -> Response:
        logins.end(cast(Claims, request.auth))
        return Response({"message": "Logged out successfully"})

    def logout_all(self, request: Request) -> Response:
        logins.end_all(cast(User, request.user))
        return Response({"message": "Logged out everywhere successfully"})


def told(tokens: Tokens) -> Response:
    """Tokens, in an answer that nothing on its way may keep."""
    body = {"token": tokens.token, "refresh": tokens.refresh}
    return Response(body, headers={"Cache-Control": "no-store"})
