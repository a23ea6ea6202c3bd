"""
The model process's HTTP face: an OpenAI API with a key, a bounded queue and a lifeline.

The engine's own server does neither bound its queue nor notice in time that a client
hung up; everything else is left to it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web

from llmbackend.local.completions import (
    Ask,
    EngineFailed,
    WholeAnswer,
    parse_ask,
    parse_chunk,
)
from llmbackend.local.embeddings import Embeddings
from llmbackend.local.engine import CONTEXT, SLOTS, Engine
from llmbackend.local.lifelines import Lifelines
from llmbackend.local.refusals import Refused

QUEUE = 2 * SLOTS
_MAX_BODY = 4 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Front:
    """
    The routes; those of a model that is not there are a 404.

    A handler is cancelled when its client hangs up.
    """

    def __init__(
        self,
        *,
        key: str,
        engine: Engine | None,
        embeddings: Embeddings | None,
        lifelines: Lifelines,
    ) -> None:
        self._authorization = f"Bearer {key}".encode()
        self._engine = engine
        self._embeddings = embeddings
        self._lifelines = lifelines
        self._slots = asyncio.Semaphore(SLOTS)
        self._waiting = 0
        self._session: aiohttp.ClientSession

    async def listen(self) -> int:
        """Start to serve on the loopback; the port."""
        app = web.Application(middlewares=[self._guard], client_max_size=_MAX_BODY)
        if self._engine is not None:
            app.cleanup_ctx.append(partial(self._connect, self._engine))
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.chat_completions),
                web.post("/v1/embeddings", self.embeddings),
                web.get("/status", self.status),
                web.get("/lifeline", self.lifeline),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    async def _connect(
        self, engine: Engine, _app: web.Application
    ) -> AsyncIterator[None]:
        # The engine closes its connections without a word, so none is used again.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            engine.base_url,
            connector=connector,
            headers={"Authorization": f"Bearer {engine.key}"},
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
        ) as self._session:
            yield

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        try:
            if not hmac.compare_digest(given, self._authorization):
                raise Refused(401, "invalid_api_key", "The key is wrong.")
            return await handler(request)
        except EngineFailed:
            return _error(Refused(500, "engine_failed", "The model failed."))
        except web.HTTPRequestEntityTooLarge:
            return _error(Refused(413, "too_large", "The body is too large."))
        except Refused as error:
            return _error(error)

    async def models(self, _request: web.Request) -> web.Response:
        """GET /v1/models"""
        models = [
            {"id": served.model, "object": "model", "owned_by": "local"}
            for served in (self._engine, self._embeddings)
            if served
        ]
        return web.json_response({"object": "list", "data": models})

    async def status(self, _request: web.Request) -> web.Response:
        """
        GET /status: how many slots the engine has at work, and who waits for one; how
        many requests for embeddings there are.
        """
        status: dict[str, int] = {}
        if self._engine is not None:
            async with self._session.get("/slots") as response:
                busy = sum(slot["is_processing"] for slot in await response.json())
            status |= {"slots": SLOTS, "busy": busy, "waiting": self._waiting}
        if self._embeddings is not None:
            status |= {"embedding": self._embeddings.asks()}
        return web.json_response(status)

    async def lifeline(self, request: web.Request) -> web.StreamResponse:
        """GET /lifeline: while it is open this process lives; it carries nothing."""
        response = web.StreamResponse()
        with self._lifelines.held():
            await response.prepare(request)
            await self._lifelines.ended.wait()
        return response

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions, streamed or whole."""
        if self._engine is None:
            raise Refused(404, "model_not_found", "There is no chat model here.")
        ask = parse_ask(await request.read(), model=self._engine.model)
        async with self._slot(), aclosing(self._chunks(ask)) as chunks:
            first = await anext(chunks)
            if ask.stream:
                return await _streamed(request, first, chunks)
            return await _whole(first, chunks)

    async def embeddings(self, request: web.Request) -> web.Response:
        """POST /v1/embeddings"""
        if self._embeddings is None:
            raise Refused(404, "model_not_found", "There is no embedding model here.")
        return web.json_response(await self._embeddings.answer(await request.read()))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the engine's slots, after at most QUEUE others."""
        if self._slots.locked() and self._waiting >= QUEUE:
            raise Refused(503, "busy", "All slots are busy and the queue is full.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _chunks(self, ask: Ask) -> AsyncGenerator[dict[str, Any], None]:
        """The answer as it is written; closing this ends the engine's work on it."""
        path = "/v1/chat/completions"
        async with self._session.post(path, json=ask.body) as response:
            if response.status != 200:
                raise _refusal(response.status, await response.read())
            async for line in response.content:
                chunk = parse_chunk(line)
                if chunk and (ask.usage or chunk["choices"]):
                    yield chunk


async def _streamed(
    request: web.Request,
    first: dict[str, Any],
    chunks: AsyncGenerator[dict[str, Any], None],
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(_event(first))
    try:
        async for chunk in chunks:
            await response.write(_event(chunk))
    except EngineFailed:
        await response.write(_event(_error_body("engine_failed", "The model failed.")))
        return response
    await response.write(b"data: [DONE]\n\n")
    return response


async def _whole(
    first: dict[str, Any], chunks: AsyncGenerator[dict[str, Any], None]
) -> web.Response:
    answer = WholeAnswer()
    answer.add(first)
    async for chunk in chunks:
        answer.add(chunk)
    return web.json_response(answer.completion())


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _refusal(status: int, body: bytes) -> Refused:
    if b"exceed_context_size_error" in body:
        message = f"The messages are longer than the model's {CONTEXT} tokens."
        return Refused(400, "context_length_exceeded", message)
    if 400 <= status < 500:
        return Refused(400, "invalid_request", "The model does not take this request.")
    return Refused(500, "engine_failed", "The model failed.")


def _error(error: Refused) -> web.Response:
    headers = {"Retry-After": str(error.retry_after)} if error.status == 503 else {}
    body = _error_body(error.code, str(error))
    return web.json_response(body, status=error.status, headers=headers)


def _error_body(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "code": code}}
