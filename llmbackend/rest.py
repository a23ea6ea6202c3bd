"""Django and DRF under ASGI, one hop to a database thread for each request."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from typing import IO, Any
from weakref import WeakValueDictionary

from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from llmbackend.commits import Commits
from llmbackend.threads import DatabaseThreads

IN_MEMORY = 1 << 20
# These ask no database, and are asked all the more while it keeps everybody waiting:
# a supervisor would take a process for dead. The first is told in half a millisecond.
ALIVE, COUNTED = "/healthz", "/metrics"

Started = tuple[int, list[tuple[bytes, bytes]], bytes]
Answered = tuple[ASGIRequest, HttpResponseBase]


class ApiHandler(BaseHandler):
    """
    Views without middleware: the guard has done what an API needs of it.

    Sessions, messages and the visitor's language are the admin's; an API's sentences
    are English whatever the browser prefers.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = convert_exception_to_response(
            self._get_response  # type: ignore[attr-defined]
        )


class RestApplication:
    """
    The synchronous part: API routes, admin, static files.

    Django's own ASGI handler starts a new thread a request and hops between threads
    several times, which defeats lasting connections and halves the throughput.
    """

    def __init__(
        self,
        *,
        threads: DatabaseThreads,
        password_threads: DatabaseThreads,
        password_requests: Iterable[str],
        passwords_at_once: int,
        commits: Commits,
        small_writes: Iterable[str],
        slow_paths: Iterable[str],
        slow_at_once: int,
    ) -> None:
        """
        `password_requests`: such as "POST /api/users/login", for threads of their own.

        Of one client at most `passwords_at_once` wait for them, so that another's
        request comes next, however many that client has sent. `small_writes` are
        committed together with others.
        """
        self._api, self._pages = ApiHandler(), BaseHandler()
        self._api.load_middleware()
        self._pages.load_middleware()
        self._threads = threads
        self._password_threads = password_threads
        self._password_requests = frozenset(password_requests)
        self._passwords_at_once = passwords_at_once
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._commits = commits
        self._small_writes = frozenset(small_writes)
        self._slow_paths = frozenset(slow_paths)
        self._slow = asyncio.Semaphore(slow_at_once)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await whole_body(receive)
        if body is None:
            return
        with body:
            answer = await self._answer(scope, body)
        status, headers, content = answer
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Any, body: IO[bytes]) -> Started:
        """Answer a request on the threads that it is for, when it is its turn."""
        path = scope["path"].rstrip("/")
        request = f"{scope['method']} {path}"
        if request in self._small_writes:
            answered = partial(self.answered, scope, body)
            return await self._commits.run(answered, finished)
        respond = partial(self.respond, scope, body)
        if path == ALIVE:
            return respond()
        if path == COUNTED:
            return await asyncio.to_thread(respond)
        if request in self._password_requests:
            async with self._turn_of(scope):
                return await self._password_threads.run(respond)
        # What takes minutes must leave threads for what takes milliseconds.
        if path in self._slow_paths:
            async with self._slow:
                return await self._threads.run(respond)
        return await self._threads.run(respond)

    def _turn_of(self, scope: Any) -> asyncio.Semaphore:
        client = (scope.get("client") or ("-", 0))[0]
        turn = self._turns.get(client)
        if turn is None:
            turn = self._turns[client] = asyncio.Semaphore(self._passwords_at_once)
        return turn

    def respond(self, scope: Any, body: IO[bytes]) -> Started:
        """Answer one request on this thread, body and all."""
        # Its receivers look after the thread's connection, as `finished` does.
        signals.request_started.send(sender=self.__class__, scope=scope)
        return finished(self.answered(scope, body))

    def answered(self, scope: Any, body: IO[bytes]) -> Answered:
        """The same within a transaction of the caller's; to be `finished` after it."""
        set_script_prefix(scope.get("root_path", ""))
        request = ASGIRequest(with_length(scope, body), body)
        handler = self._api if is_api(scope["path"]) else self._pages
        return request, handler.get_response(request)


def finished(answered: Answered) -> Started:
    """What is sent of a response."""
    request, response = answered
    try:
        content = content_of(response)
        headers = [
            (name.encode("ascii"), value.encode("latin-1"))
            for name, value in response.items()
            if name != "Content-Length"
        ]
        headers.append((b"Content-Length", str(len(content)).encode()))
        headers += [
            (b"Set-Cookie", cookie.output(header="").strip().encode("ascii"))
            for cookie in response.cookies.values()
        ]
    finally:
        # Sends request_finished, which hands the connection back.
        response.close()
        request.close()
        part(response)
    return response.status_code, headers, content


def part(response: HttpResponseBase) -> None:
    """
    Part what DRF joins to rings: a response, its request, its view and its methods.

    Else every request waits for the garbage collector, which takes a tenth of the time.
    """
    context = getattr(response, "renderer_context", None)
    if context:
        vars(context["view"]).clear()
        context["request"].parser_context.clear()
        context.clear()


def with_length(scope: Any, body: IO[bytes]) -> Any:
    """The scope with the body's length: DRF takes one of unknown length for none."""
    length = body.seek(0, os.SEEK_END)
    body.seek(0)
    headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


def is_api(path: str) -> bool:
    return path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))


def content_of(response: Any) -> bytes:
    if isinstance(response, StreamingHttpResponse):
        return b"".join(response)
    content: HttpResponse = response
    return content.content


async def whole_body(receive: Any) -> IO[bytes] | None:
    """
    The request's body, in memory up to 1 MiB, in an unnamed file beyond.

    None when the client left before its end: half a request must not be carried out.
    """
    message = await receive()
    if message["type"] != "http.disconnect" and not message.get("more_body"):
        return BytesIO(message.get("body", b""))
    with ExitStack() as closing:
        body = closing.enter_context(tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))
        while message["type"] != "http.disconnect":
            body.write(message.get("body", b""))
            if not message.get("more_body"):
                closing.pop_all()
                body.seek(0)
                return body
            message = await receive()
    return None
