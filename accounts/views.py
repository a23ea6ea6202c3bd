"""Registration and log-in."""

from __future__ import annotations

from django.contrib.auth import authenticate
from rest_framework import viewsets
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.registration import register
from accounts.serializers import CredentialsSerializer, RegistrationSerializer
from accounts.tokens import issue
from llmbackend.errors import InvalidCredentials


class UserViewSet(viewsets.ViewSet):
    """What can be asked without a token: an account, and a token for it."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def register(self, request: Request) -> Response:
        asked = RegistrationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        register(**asked.validated_data)
        return Response({"message": "User registered successfully"}, status=201)

    def login(self, request: Request) -> Response:
        given = CredentialsSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        user = authenticate(**given.validated_data)
        if user is None:
            raise InvalidCredentials
        return Response({"token": issue(user)})
