"""How an error looks over HTTP: the status table, the one body, DRF's handler."""

from __future__ import annotations

import errno
import json
import logging
import math
import sqlite3
import sys
from typing import IO, Any

import msgspec
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions as drf
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils import json as strict_json

from llmbackend import errors
from llmbackend.log import request_id, request_path

logger = logging.getLogger(__name__)

STATUS: dict[type[errors.LLMBackendError], int] = {
    errors.LLMBackendError: 500,
    errors.Invalid: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.NotAcceptable: 406,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.IdempotencyMismatch: 422,
    errors.RateLimited: 429,
    errors.Internal: 500,
    errors.ProviderError: 502,
    errors.AnswerCut: 502,
    errors.ProviderBusy: 503,
    errors.Unavailable: 503,
    errors.ProviderTimeout: 504,
}

# What Django and DRF raise, in our words. The first that matches counts.
RENAMED: tuple[tuple[type[Exception], type[errors.LLMBackendError]], ...] = (
    (Http404, errors.NotFound),
    (drf.NotFound, errors.NotFound),
    (drf.ParseError, errors.Invalid),
    (drf.NotAuthenticated, errors.Unauthorized),
    (drf.AuthenticationFailed, errors.Unauthorized),
    (drf.PermissionDenied, errors.Forbidden),
    (PermissionDenied, errors.Forbidden),
    (drf.MethodNotAllowed, errors.MethodNotAllowed),
    (drf.NotAcceptable, errors.NotAcceptable),
    (drf.UnsupportedMediaType, errors.UnsupportedMediaType),
    (RequestDataTooBig, errors.TooLarge),
    (BadRequest, errors.Invalid),
    (SuspiciousOperation, errors.Invalid),
    (OperationalError, errors.DatabaseUnavailable),
    (InterfaceError, errors.DatabaseUnavailable),
)

# Of a disk, an account on it, or a file.
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

# As PostgreSQL calls it.
FOREIGN_KEY_VIOLATION = "23503"


def status_of(error: errors.LLMBackendError) -> int:
    """The HTTP status of `error`: its own row, or that of its nearest ancestor."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def headers_of(error: errors.LLMBackendError) -> dict[str, str]:
    """The headers that go with `error`: how to sign in, when to come back."""
    headers = {}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="llmbackend"'
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif status_of(error) == 503:
        headers["Retry-After"] = "2"
    return headers


def error_body(error: errors.LLMBackendError) -> dict[str, Any]:
    """The body of every error answer; a RAG client is also shown `message`."""
    # What it quotes may hold halves of characters, which no encoding has.
    said = str(error).encode(errors="replace").decode()
    body = {"error": said, "code": error.code, "request_id": request_id.get()}
    body |= error.facts
    if request_path.get().startswith("/api/rag/"):
        return {"success": False, "message": said, **body}
    return body


def renamed(exc: Exception) -> errors.LLMBackendError | None:
    """`exc` as one of the project's errors; None when it is a bug."""
    if isinstance(exc, errors.LLMBackendError):
        return exc
    if isinstance(exc, drf.ValidationError):
        return errors.Invalid(sentence_of(exc.detail))
    if isinstance(exc, drf.Throttled):
        wait = getattr(exc, "wait", None)
        return errors.RateLimited(retry_after=math.ceil(wait or 1))
    if isinstance(exc, IntegrityError) and is_of_what_went(exc):
        logger.warning("A row was to be stored under one that has gone", exc_info=exc)
        return errors.NotFound()
    if isinstance(exc, OSError) and exc.errno in NO_ROOM:
        logger.error("There is no room for a file", exc_info=exc)
        return errors.Unavailable()
    ours = next((ours for theirs, ours in RENAMED if isinstance(exc, theirs)), None)
    if ours is errors.DatabaseUnavailable:
        logger.error("The database could not be used", exc_info=exc)
    return ours() if ours else None


def is_of_what_went(error: IntegrityError) -> bool:
    """
    Whether a row refers to one that is not there.

    It was when the request came, such as its account: somebody removed it meanwhile.
    """
    cause = error.__cause__
    if isinstance(cause, sqlite3.IntegrityError):
        return cause.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
    return getattr(cause, "sqlstate", None) == FOREIGN_KEY_VIOLATION


def sentence_of(detail: Any) -> str:
    """The first complaint in DRF's tree of them, with the field it is about.

    >>> sentence_of({"title": ["This field is required."]})
    'title: This field is required.'
    >>> sentence_of({"non_field_errors": ["Not an object."]})
    'Not an object.'
    >>> sentence_of({"tags": [{}, {"name": ["May not be blank."]}]})
    'tags: name: May not be blank.'
    """
    if isinstance(detail, dict):
        field, rest = next(iter(detail.items()))
        sentence = sentence_of(rest)
        return sentence if field == "non_field_errors" else f"{field}: {sentence}"
    if isinstance(detail, list):
        # Of a list of things, those without fault have an empty complaint.
        return sentence_of(next(item for item in detail if item))
    return str(detail)


def address_of(request: HttpRequest | Request) -> str:
    """Who asks, behind trusted proxies too; "-" if that is not known."""
    return str(request.META.get("REMOTE_ADDR") or "-")


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's seam: every error a view raises becomes the one body."""
    error = renamed(exc)
    if error is None:
        logger.error("Unhandled error in a view", exc_info=exc)
        error = errors.Internal()
    return Response(
        error_body(error), status=status_of(error), headers=headers_of(error)
    )


def error_answer(
    error: errors.LLMBackendError,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """`error` as status, headers and body, for what stands outside Django."""
    body = json.dumps(error_body(error), ensure_ascii=False, separators=(",", ":"))
    content = body.encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **headers_of(error),
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return status_of(error), encoded, content


def error_response(error: errors.LLMBackendError) -> JsonResponse:
    """`error` as a Django response, for what no view answers."""
    return JsonResponse(
        error_body(error), status=status_of(error), headers=headers_of(error)
    )


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler404."""
    return error_response(errors.NotFound())


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler400."""
    return error_response(renamed(exception) or errors.Invalid())


def permission_denied(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler403."""
    return error_response(errors.Forbidden())


def server_error(request: HttpRequest) -> JsonResponse:
    """Django's handler500, for what is no DRF view: the admin."""
    logger.error("Unhandled error in a page", exc_info=sys.exc_info()[1])
    return error_response(errors.Internal())


class JSONRenderer(BaseRenderer):
    """Writes every body as compact JSON in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, media_type: str | None = None, context: Any = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data)


class JSONNegotiation(DefaultContentNegotiation):
    """DRF's, which takes a tenth of a request's time, where there is a question."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        if request.META.get("HTTP_ACCEPT", "*/*") == "*/*":
            return renderers[0], renderers[0].media_type
        found: tuple[Any, str] = super().select_renderer(
            request, renderers, format_suffix
        )
        return found


class OneForm(DefaultContentNegotiation):
    """For what has one form, whatever a client would rather have; errors are JSON."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class JSONParser(BaseParser):
    """
    Reads every body as a JSON object whatever its content type says, as the seed does.

    A charset in that type is ignored: it may name a codec that decompresses, and so
    turn the largest body allowed into gigabytes.
    """

    media_type = "*/*"

    def parse(
        self, stream: IO[Any], media_type: Any = None, parser_context: Any = None
    ) -> dict[str, Any]:
        try:
            body = strict_json.loads(stream.read())
        except (ValueError, RecursionError) as exc:
            raise errors.Invalid("The body is not valid JSON.") from exc
        if not isinstance(body, dict):
            raise errors.Invalid("The body must be a JSON object.")
        return body
