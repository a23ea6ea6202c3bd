"""Accounts: registration, log-in and log-out, and what is one's own."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, cast

from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import api_keys, lifecycle, logins
from accounts.credentials import authenticated, confirm
from accounts.grants import ACCOUNT, LOG_IN
from accounts.logins import Tokens
from accounts.models import ApiKey, User
from accounts.registration import check_open, register
from accounts.serializers import (
    CredentialsSerializer,
    NewApiKeySerializer,
    NewPasswordSerializer,
    PasswordSerializer,
    ProfileSerializer,
    RefreshSerializer,
    RegistrationSerializer,
)
from accounts.throttles import count_registration
from accounts.tokens import TokenClaims
from llmbackend.errors import NotFound
from llmbackend.http import address_of
from llmbackend.resource import Resource


class UserViewSet(Resource):
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


class LogInViewSet(Resource):
    """What ends log-ins."""

    scopes = {"logout": LOG_IN, "logout_all": ACCOUNT, "password": ACCOUNT}

    def logout(self, request: Request) -> Response:
        logins.end(cast(TokenClaims, request.auth))
        return Response({"message": "Logged out successfully"})

    def logout_all(self, request: Request) -> Response:
        user = cast(User, request.user)
        logins.end_all(User.objects.filter(pk=user.pk), by=user.pk)
        return Response({"message": "Logged out everywhere successfully"})

    def password(self, request: Request) -> Response:
        """A new password ends all log-ins; the answer begins one."""
        given = NewPasswordSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        confirmed = confirmed_user(request, given.validated_data["password"])
        new = given.validated_data["new_password"]
        return told(logins.begin(lifecycle.change_password(confirmed, new=new)))


class AccountViewSet(Resource):
    """A user's own account."""

    scopes = dict.fromkeys(("show", "change", "destroy"), ACCOUNT)

    def show(self, request: Request) -> Response:
        return Response(account_body(cast(User, request.user)))

    def change(self, request: Request) -> Response:
        asked = ProfileSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        user = cast(User, request.user)
        changed = lifecycle.change_profile(user, **asked.validated_data)
        return Response(account_body(changed))

    def destroy(self, request: Request) -> Response:
        given = PasswordSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        user = confirmed_user(request, given.validated_data["password"])
        lifecycle.delete(user, by=user.pk)
        return Response({"message": "Account deleted successfully"})


class ApiKeyViewSet(Resource):
    """A user's own API keys; a key shows which there are, and makes and ends none."""

    scopes = {"create": LOG_IN, "list": ACCOUNT, "destroy": LOG_IN}

    def create(self, request: Request) -> Response:
        asked = NewApiKeySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        stored, text = api_keys.make(
            owner=cast(User, request.user), wanted=asked.wanted()
        )
        body = {"key": text, **api_key_body(stored)}
        return Response(body, status=201, headers={"Cache-Control": "no-store"})

    def list(self, request: Request) -> Response:
        mine = ApiKey.objects.owned_by(cast(User, request.user))
        keys = mine.order_by("created_at", "pk")
        return Response({"keys": [api_key_body(key) for key in keys]})

    def destroy(self, request: Request, key_id: str) -> Response:
        try:
            parsed = uuid.UUID(key_id)
        except ValueError as exc:
            raise NotFound from exc
        api_keys.remove(owner=cast(User, request.user), key_id=parsed)
        return Response({"message": "API key deleted successfully"})


def confirmed_user(request: Request, password: str) -> User:
    """Who asks, having given the password again; raises WrongPassword, RateLimited."""
    user = cast(User, request.user)
    confirm(user, password=password, address=address_of(request))
    return user


def account_body(user: User) -> dict[str, Any]:
    """An account as its owner sees it."""
    return {
        "user_id": user.pk,
        "username": user.username,
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "is_staff": user.is_staff,
        "created_time": seconds(user.date_joined),
        "last_login_time": seconds(user.last_login),
    }


def api_key_body(key: ApiKey) -> dict[str, Any]:
    """A key as its owner sees it: everything but the key."""
    return {
        "key_id": str(key.pk),
        "name": key.name,
        "hint": f"{api_keys.PREFIX}…{key.hint}",
        "scopes": key.scopes,
        "kb_ids": key.knowledge_bases,
        "models": key.chat_models,
        "created_time": seconds(key.created_at),
        "expires_time": seconds(key.expires_at),
        "last_used_time": seconds(key.last_used_at),
    }


def seconds(moment: datetime | None) -> int | None:
    """A time as the API tells it; None for none."""
    return int(moment.timestamp()) if moment else None


def told(tokens: Tokens) -> Response:
    """Tokens, in an answer that nothing on its way may keep."""
    body = {"token": tokens.token, "refresh": tokens.refresh}
    return Response(body, headers={"Cache-Control": "no-store"})
