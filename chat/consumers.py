"""The streaming edges: each reads one answer as it is written."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.generic.http import AsyncHttpConsumer
from django.conf import settings

from accounts.tokens import Claims, bearer_token, claims_of
from chat import encoders
from chat.answers import Answers, Ask
from chat.encoders import Encoder, encoder_for
from chat.events import Cursor
from chat.live import LiveAnswer
from chat.serializers import parse_ask, parse_rag_ask
from llmbackend.errors import LLMBackendError, MethodNotAllowed
from llmbackend.http import error_answer


class StreamingConsumer(AsyncHttpConsumer):
    """
    An HTTP consumer that ends when its client hangs up.

    Channels hands a consumer one message at a time, so a stock `handle()` that
    streams for a minute would learn of `http.disconnect` a minute late.
    """

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.base_send = scope, send
        body = await read_body(receive)
        if body is None:
            return
        handling = asyncio.create_task(self.handle(body))
        hang_up = asyncio.create_task(hung_up(receive))
        try:
            await asyncio.wait({handling, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if handling.done():
                handling.result()
        finally:
            handling.cancel()
            hang_up.cancel()
            await asyncio.wait({handling, hang_up})

    async def handle(self, body: bytes) -> None:
        try:
            await self.stream(body)
        except LLMBackendError as error:
            await self.refuse(error)

    async def stream(self, body: bytes) -> None:
        """Answer the request; an error raised here becomes a status."""
        raise NotImplementedError

    async def refuse(self, error: LLMBackendError) -> None:
        status, headers, body = error_answer(error)
        await self.send_response(status, body, headers=headers)

    def claims(self) -> Claims:
        """Whose token came with the request; raises Unauthorized."""
        return claims_of(bearer_token(self.header(b"authorization")))

    def encoder(self) -> Encoder:
        return encoder_for(
            query=self.scope["query_string"].decode("latin-1"),
            accept=self.header(b"accept"),
            configured=settings.CONFIG.chat.framing,
        )

    def header(self, name: bytes) -> str:
        values = [value for key, value in self.scope["headers"] if key == name]
        return b", ".join(values).decode("latin-1")

    async def follow(self, answer: LiveAnswer, encoder: Encoder) -> None:
        """Send an answer from its start to its end, as fast as the client reads."""
        await self.send_headers(headers=encoders.HEADERS)
        await self.send_body(encoder.opening(answer.opening), more_body=True)
        cursor = Cursor()
        while True:
            growth = answer.since(cursor)
            if growth is not None:
                cursor = growth.cursor
                await self.send_body(encoder.growth(growth), more_body=True)
            elif answer.ending is not None:
                await self.send_body(encoder.ending(answer.ending))
                return
            else:
                await answer.changed()
                if answer.since(cursor) is None and answer.ending is None:
                    await self.send_body(encoder.heartbeat, more_body=True)


class ChatConsumer(StreamingConsumer):
    """POST /api/chat/<conversation_id>: a question in, its answer streamed out."""

    async def stream(self, body: bytes) -> None:
        if self.scope["method"] != "POST":
            raise MethodNotAllowed
        claims, encoder = self.claims(), self.encoder()
        ask = self.parse(body)
        answer = await self.answers.begin(claims=claims, ask=ask)
        await answer.begun()
        # Nothing has been sent yet, so a failure can still be a status.
        if answer.error is not None and answer.first_token_at is None:
            raise answer.error
        await self.follow(answer, encoder)

    def parse(self, body: bytes) -> Ask:
        """What is asked; raises Invalid."""
        conversation_id = self.scope["url_route"]["kwargs"]["conversation_id"]
        return parse_ask(body, conversation_id=conversation_id)


class RagChatConsumer(ChatConsumer):
    """POST /api/rag/chat: the same, answered from a knowledge base."""

    def parse(self, body: bytes) -> Ask:
        return parse_rag_ask(body)


async def read_body(receive: Any) -> bytes | None:
    """The whole body, which the guard has bounded; None when the client left."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def hung_up(receive: Any) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
