"""Errors: the tree, the status table, and the one body they all have."""

from __future__ import annotations

import json
import re
import zlib
from datetime import date
from typing import Any

import httpx2
import pytest
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import IntegrityError, InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions as drf

from accounts.models import User
from conversations.models import Usage
from llmbackend import errors, http
from llmbackend.errors import LLMBackendError
from llmbackend.log import request_id
from tests.conftest import Client
from tests.fake_provider import FakeProvider, Script, refusal

MARKS = "*x-+#"
BLANKS_2_MIB = b" " * (2 << 20)
WRONG = {"username": "a", "password": "b"}
OTHER = {"title": "Hi", "model": "claude-3"}


def descendants(kind: type[LLMBackendError]) -> list[type[LLMBackendError]]:
    """Every class below `kind`, in the order of their definition."""
    found = []
    for child in kind.__subclasses__():
        found += [child, *descendants(child)]
    return found


CLASSES = descendants(LLMBackendError)
every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def drawn(kind: type[LLMBackendError], depth: int = 0) -> list[str]:
    """The tree from `kind` down, as the docstring of errors.py draws it."""
    line = f"{'  ' * depth}{MARKS[depth]} {kind.__name__}"
    below = [drawn(child, depth + 1) for child in kind.__subclasses__()]
    return [line, *(line for lines in below for line in lines)]


class TestTheTree:
    def test_the_docstring_draws_the_real_one(self) -> None:
        doc = errors.__doc__ or ""
        tree = [line for line in doc.splitlines() if line.strip()[:1] in MARKS]

        assert [line for line in tree if line.strip()] == drawn(LLMBackendError)

    @every_class
    def test_every_class_has_a_sentence_for_clients(
        self, kind: type[LLMBackendError]
    ) -> None:
        sentence = kind.__dict__.get("__doc__") or ""

        assert re.fullmatch(r"[A-Z][^\n]+\.", sentence)
        assert str(kind()) == sentence

    def test_no_two_classes_share_a_code(self) -> None:
        codes = [kind.code for kind in CLASSES]

        assert len(set(codes)) == len(codes)
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)

    def test_a_code_is_the_name_in_snake_case(self) -> None:
        assert errors.AnswerInProgress.code == "answer_in_progress"


class TestTheStatusTable:
    @every_class
    def test_every_class_has_a_status_of_its_own_or_an_ancestors(
        self, kind: type[LLMBackendError]
    ) -> None:
        ancestors = kind.__mro__[: kind.__mro__.index(LLMBackendError)]
        rows = [http.STATUS[each] for each in ancestors if each in http.STATUS]

        assert rows
        assert http.status_of(kind()) == rows[0]

    def test_every_row_is_of_a_class_of_ours(self) -> None:
        assert set(http.STATUS) <= {LLMBackendError, *CLASSES}

    @pytest.mark.parametrize("kind", [k for k in CLASSES if http.status_of(k()) == 503])
    def test_a_503_says_when_to_come_back(self, kind: type[LLMBackendError]) -> None:
        assert int(http.headers_of(kind())["Retry-After"]) > 0
        assert http.headers_of(kind(retry_after=30))["Retry-After"] == "30"

    def test_a_401_says_how_to_sign_in(self) -> None:
        assert http.headers_of(errors.InvalidCredentials())["WWW-Authenticate"]


class TestForeignExceptions:
    @pytest.mark.parametrize(
        ("raised", "status", "code"),
        [
            (Http404("No Message matches the query"), 404, "not_found"),
            (drf.NotFound("secret"), 404, "not_found"),
            (drf.NotAuthenticated(), 401, "unauthorized"),
            (drf.AuthenticationFailed("secret"), 401, "unauthorized"),
            (drf.PermissionDenied("secret"), 403, "forbidden"),
            (PermissionDenied("secret"), 403, "forbidden"),
            (drf.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
            (drf.NotAcceptable(), 406, "not_acceptable"),
            (drf.UnsupportedMediaType("text/xml"), 415, "unsupported_media_type"),
            (drf.Throttled(wait=3), 429, "rate_limited"),
            (drf.ParseError("JSON parse error: secret"), 400, "invalid"),
            (drf.ValidationError({"title": ["Too long."]}), 400, "invalid"),
            (RequestDataTooBig("secret"), 413, "too_large"),
            (SuspiciousOperation("secret"), 400, "invalid"),
            (BadRequest("secret"), 400, "invalid"),
            (OperationalError("secret: no such table"), 503, "database_unavailable"),
            (InterfaceError("secret"), 503, "database_unavailable"),
            (RuntimeError("secret"), 500, "internal"),
            (errors.AnswerInProgress(), 409, "answer_in_progress"),
        ],
        ids=lambda value: (
            type(value).__name__ if isinstance(value, Exception) else None
        ),
    )
    def test_they_become_ours_without_their_words(
        self, raised: Exception, status: int, code: str
    ) -> None:
        response = http.exception_handler(raised, {})

        assert response is not None
        assert (response.status_code, response.data["code"]) == (status, code)
        assert "secret" not in json.dumps(response.data)

    @pytest.mark.django_db(transaction=True)
    def test_what_would_stand_under_what_has_gone_is_not_found(self) -> None:
        ann = User.objects.create(username="ann")

        with pytest.raises(IntegrityError) as stands_under_nobody:
            Usage.objects.create(owner_id=ann.pk + 1, day=date(2026, 11, 25))
        with pytest.raises(IntegrityError) as is_there_twice:
            User.objects.create(username="ANN")

        refused = http.exception_handler(stands_under_nobody.value, {})
        failed = http.exception_handler(is_there_twice.value, {})
        assert refused is not None
        assert (refused.status_code, refused.data["code"]) == (404, "not_found")
        assert failed is not None
        assert (failed.status_code, failed.data["code"]) == (500, "internal")

    def test_a_throttle_says_when_to_come_back(self) -> None:
        response = http.exception_handler(drf.Throttled(wait=2.5), {})

        assert response is not None
        assert response.headers["Retry-After"] == "3"

    @pytest.mark.parametrize(
        ("detail", "sentence"),
        [
            ({"title": ["Too long."]}, "title: Too long."),
            ({"non_field_errors": ["Not an object."]}, "Not an object."),
            ({"models": {"chat": ["Wrong."]}}, "models: chat: Wrong."),
            ({"tags": [{}, {"name": ["Missing."]}]}, "tags: name: Missing."),
            (["First.", "Second."], "First."),
        ],
    )
    def test_of_several_complaints_the_first_is_told(
        self, detail: Any, sentence: str
    ) -> None:
        assert http.sentence_of(drf.ValidationError(detail).detail) == sentence

    def test_a_status_nobody_foresaw_is_kept(self) -> None:
        class Teapot(drf.APIException):
            status_code = 500

        response = http.exception_handler(Teapot("secret"), {})

        assert response is not None
        assert (response.status_code, response.data["code"]) == (500, "internal")


def has_the_one_body(response: httpx2.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error", "code", "request_id"]
    assert re.fullmatch(r"[A-Z\w].*\.", body["error"])
    assert body["code"] == code
    assert re.fullmatch(r"[0-9a-f]{32}", body["request_id"])
    assert body["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"


class TestOneBodyEverywhere:
    @pytest.mark.parametrize(
        ("method", "path", "options", "status", "code"),
        [
            ("GET", "/healthz", {"headers": {"Host": "evil.example"}}, 400, "bad_host"),
            ("GET", "/nothing", {}, 404, "not_found"),
            ("GET", "/api/nothing", {}, 404, "not_found"),
            ("GET", "/api/conversations/history/", {}, 404, "not_found"),
            ("GET", "/api/conversations/history/abc", {}, 404, "not_found"),
            ("GET", "/api/conversations/history/7", {}, 404, "not_found"),
            ("PUT", "/healthz", {}, 405, "method_not_allowed"),
            ("PUT", "/api/conversations/list", {}, 405, "method_not_allowed"),
            ("GET", "/api/chat/7", {}, 405, "method_not_allowed"),
            ("POST", "/api/chat/7", {"json": {"message": "Hi"}}, 404, "not_found"),
            ("POST", "/api/chat/x", {"json": {"message": "Hi"}}, 400, "invalid"),
            ("POST", "/api/chat/7", {"content": b"{"}, 400, "invalid"),
            ("POST", "/api/chat/7", {"content": b" " * (257 << 10)}, 413, "too_large"),
            ("POST", "/api/users/login", {"content": b"{"}, 400, "invalid"),
            ("POST", "/api/users/login", {"content": b"\xff"}, 400, "invalid"),
            ("POST", "/api/users/login", {"content": b"[" * 100_000}, 400, "invalid"),
            ("POST", "/api/users/login", {"content": BLANKS_2_MIB}, 413, "too_large"),
            ("POST", "/api/users/login", {"json": WRONG}, 401, "invalid_credentials"),
            ("POST", "/api/conversations/create", {"content": b"null"}, 400, "invalid"),
            ("POST", "/api/conversations/create", {"content": b"[]"}, 400, "invalid"),
            ("POST", "/api/conversations/create", {"json": {}}, 400, "invalid"),
            (
                "POST",
                "/api/conversations/create",
                {"json": OTHER},
                400,
                "unknown_model",
            ),
        ],
    )
    def test_for_a_user(
        self,
        as_alice: Client,
        method: str,
        path: str,
        options: Any,
        status: int,
        code: str,
    ) -> None:
        has_the_one_body(as_alice.request(method, path, **options), status, code)

    def test_a_charset_that_decompresses_is_not_obeyed(self, anonymous: Client) -> None:
        # A megabyte of it would have become a gigabyte, and no token is asked for.
        packed = zlib.compress(json.dumps({"username": "a", "password": "b"}).encode())

        response = anonymous.post(
            "/api/users/login",
            content=packed,
            headers={"Content-Type": "application/json; charset=zlib"},
        )

        has_the_one_body(response, 400, "invalid")

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/api/conversations/list"), ("POST", "/api/chat/7")],
    )
    def test_for_a_stranger(self, anonymous: Client, method: str, path: str) -> None:
        response = anonymous.request(method, path)

        has_the_one_body(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")

    def test_for_a_failed_provider(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        provider.default = refusal(401)

        response = as_alice.ask(as_alice.conversation(), "Hi")

        has_the_one_body(response, 502, "provider_auth")

    def test_for_an_answer_in_progress(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        provider.default = Script(stall_after=1)
        conversation = as_alice.conversation()
        path, asked = f"/api/chat/{conversation}", {"message": "Hi"}

        with as_alice.stream("POST", path, json=asked) as answer:
            next(answer.iter_text())
            second = as_alice.ask(conversation, "Hi")

        has_the_one_body(second, 409, "answer_in_progress")

    def test_the_request_id_of_an_error_outside_a_request_is_a_dash(self) -> None:
        request_id.set("-")

        assert http.error_body(errors.NotFound())["request_id"] == "-"

    def test_an_error_of_the_api_can_be_read_by_a_page_of_another_origin(
        self, anonymous: Client
    ) -> None:
        origin = {"Origin": "https://app.example"}

        response = anonymous.get("/api/conversations/list", headers=origin)

        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
