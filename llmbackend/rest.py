"""Django and DRF under ASGI, one hop to a database thread for each request."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import IO, Any
from weakref import WeakValueDictionary

from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import set_script_prefix

from llmbackend.threads import DatabaseThreads

IN_MEMORY = 1 << 20

Started = tuple[int, list[tuple[bytes, bytes]], bytes]


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
        slow_paths: Iterable[str],
        slow_at_once: int,
    ) -> None:
        """
        `password_requests`: such as "POST /api/users/login", for threads of their own.

        Of one client at most `passwords_at_once` wait for them, so that another's
        request comes next, however many that client has sent.
        """
        self._api, self._pages = ApiHandler(), BaseHandler()
        self._api.load_middleware()
        self._pages.load_middleware()
        self._threads = threads
        self._password_threads = password_threads
        self._password_requests = frozenset(password_requests)
        self._passwords_at_once = passwords_at_once
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._slow_paths = frozenset(slow_paths)
        self._slow = asyncio.Semaphore(slow_at_once)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        threads, bound = self._way_of(scope)
        # In memory up to 1 MiB, in an unnamed file beyond.
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as body:
            if not await receive_whole(receive, into=body):
                return
            async with bound:
                answer = await threads.run(self.respond, scope, body)
        status, headers, content = answer
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": content})

    def _way_of(
        self, scope: Any
    ) -> tuple[DatabaseThreads, AbstractAsyncContextManager[Any]]:
        """The threads that answer a request, and what it waits for before them."""
        path = scope["path"].rstrip("/")
        if f"{scope['method']} {path}" in self._password_requests:
            return self._password_threads, self._turn_of(scope)
        # What takes minutes must leave threads for what takes milliseconds.
        return self._threads, self._slow if path in self._slow_paths else nullcontext()

    def _turn_of(self, scope: Any) -> asyncio.Semaphore:
        client = (scope.get("client") or ("-", 0))[0]
        turn = self._turns.get(client)
        if turn is None:
            turn = self._turns[client] = asyncio.Semaphore(self._passwords_at_once)
        return turn

    def respond(self, scope: Any, body: IO[bytes]) -> Started:
        """Answer one request on this thread, body and all."""
        set_script_prefix(scope.get("root_path", ""))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request = ASGIRequest(with_length(scope, body), body)
        handler = self._api if is_api(scope["path"]) else self._pages
        response = handler.get_response(request)
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
        return response.status_code, headers, content


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


async def receive_whole(receive: Any, *, into: IO[bytes]) -> bool:
    """
    Copy the request's body; False when the client left before its end.

    Half a request must not be carried out.
    """
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        into.write(message.get("body", b""))
        more = message.get("more_body", False)
    into.seek(0)
    return True
