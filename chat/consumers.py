"""The streaming edges over HTTP: each reads one answer as it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from channels.generic.http import AsyncHttpConsumer
from django.conf import settings

from accounts.tokens import Claims, bearer_token, claims_of
from chat import encoders, tickets
from chat.answers import Answers, Reading
from chat.asks import Ask, Watch
from chat.encoders import Encoder, encoder_for
from chat.reading import read_along
from chat.serializers import (
    ask_of,
    conversation_id_of,
    json_object,
    rag_ask_of,
    rag_conversation_id_of,
)
from llmbackend.direct_write import writer_of
from llmbackend.errors import LLMBackendError, MethodNotAllowed
from llmbackend.http import error_answer, error_body

MORE = {"type": "http.response.body", "more_body": True}


class StreamingConsumer(AsyncHttpConsumer):
    """
    An HTTP consumer that ends when its client hangs up.

    Channels hands a consumer one message at a time, so a stock `handle()` that
    streams for a minute would learn of `http.disconnect` a minute late.
    """

    method = "POST"

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers
        self._cut: LLMBackendError | None = None
        self._begun = self._is_left = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.base_send = scope, send
        body = await read_body(receive)
        if body is None:
            return
        self._handling: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        hang_up = asyncio.create_task(hung_up(receive))
        hang_up.add_done_callback(self._leave)
        try:
            await self.handle(body)
        except asyncio.CancelledError:
            if not self._is_left:
                raise
            self._handling.uncancel()
        finally:
            hang_up.remove_done_callback(self._leave)
            hang_up.cancel()
            self.answers.connections.remove(self)

    def _leave(self, hang_up: asyncio.Task[None]) -> None:
        self._is_left = True
        self._handling.cancel()

    async def handle(self, body: bytes) -> None:
        try:
            if self.scope["method"] != self.method:
                raise MethodNotAllowed
            await self.stream(body)
        except LLMBackendError as error:
            await self.refuse(error)
        except asyncio.CancelledError:
            if self._cut is None:
                raise
            self._handling.uncancel()
            await self.refuse(self._cut)

    def cut(self, error: LLMBackendError) -> None:
        """
        End the stream from outside, telling its reader why.

        That may take a slow reader longer than until it is to be cut again.
        """
        if self._cut is None:
            self._cut = error
            self._handling.cancel()

    async def stream(self, body: bytes) -> None:
        """Answer the request; an error raised here becomes a status."""
        raise NotImplementedError

    async def refuse(self, error: LLMBackendError) -> None:
        if self._begun:
            await self.send_body(self.encoder().refusal(error_body(error)))
            return
        status, headers, body = error_answer(error)
        if isinstance(error, MethodNotAllowed):
            headers.append((b"Allow", self.method.encode()))
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

    def query(self, name: str) -> str:
        return encoders.parameter(self.scope["query_string"].decode("latin-1"), name)

    @property
    def conversation_id(self) -> int:
        """The conversation the path names; raises Invalid."""
        return conversation_id_of(self.scope["url_route"]["kwargs"]["conversation_id"])

    async def watch(self, claims: Claims, watch: Watch) -> None:
        """Send what there is to read, or say that there is nothing."""
        encoder = self.encoder()
        reading = await self.answers.watch(claims=claims, watch=watch)
        if reading is None:
            # EventSource comes back no more after this.
            await self.send_response(204, b"", headers=encoders.HEADERS)
            return
        with self.answers.reading(reading.answer):
            await self.follow(claims, reading, encoder)

    async def follow(self, claims: Claims, reading: Reading, encoder: Encoder) -> None:
        """
        Send an answer from a place to its end, as fast as the client reads.

        To be called as one of its readers.
        """
        self.answers.connections.add(self, claims)
        await self.send_headers(headers=encoders.HEADERS)
        self._begun = True
        write = writer_of(self.scope)
        end = await read_along(reading, encoder, self.send_frame, write=write)
        await self.send_body(end or b"")

    def send_frame(self, frame: bytes) -> Coroutine[Any, Any, None]:
        """What `send_body` does, without the calls between."""
        return self.base_send({**MORE, "body": frame})  # type: ignore[no-any-return]


class TurnConsumer(StreamingConsumer):
    """A turn is asked for, and its answer streamed out."""

    async def stream(self, body: bytes) -> None:
        claims, encoder = self.claims(), self.encoder()
        last_event_id = self.header(b"last-event-id")
        if last_event_id:
            # A client that comes back must not ask its question again.
            conversation_id = self.conversation_of(body)
            watch = Watch(conversation_id=conversation_id, last_event_id=last_event_id)
            await self.watch(claims, watch)
            return
        reading = await self.answers.begin(claims=claims, ask=self.parse(body))
        answer = reading.answer
        with self.answers.reading(answer):
            await answer.begun(reading.cursor)
            # Nothing has been sent yet, so a failure can still be a status.
            if answer.error is not None and answer.cursor == reading.cursor:
                raise answer.error
            await self.follow(claims, reading, encoder)

    def conversation_of(self, body: bytes) -> int:
        """Which conversation is meant; raises Invalid."""
        return self.conversation_id

    def parse(self, body: bytes) -> Ask:
        """What is asked; raises Invalid."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        return self.header(b"idempotency-key")


class ChatConsumer(TurnConsumer):
    """POST /api/chat/<conversation_id>[/<deed>]: a turn in, its answer streamed out."""

    def parse(self, body: bytes) -> Ask:
        deed = self.scope["url_route"]["kwargs"].get("deed") or "message"
        # What is done to the last answer needs no body.
        fields = json_object(body or b"{}")
        return ask_of(deed, fields, conversation_id=self.conversation_id, key=self.key)


class RagChatConsumer(TurnConsumer):
    """POST /api/rag/chat: a question, answered from a knowledge base."""

    def conversation_of(self, body: bytes) -> int:
        return rag_conversation_id_of(json_object(body))

    def parse(self, body: bytes) -> Ask:
        return rag_ask_of(json_object(body), key=self.key)


class WatchConsumer(StreamingConsumer):
    """GET /api/chat/<conversation_id>/stream: an answer is read, written anywhere."""

    method = "GET"

    async def stream(self, body: bytes) -> None:
        conversation_id = self.conversation_id
        ticket = self.query("ticket")
        if ticket:
            claims = tickets.claims_of(ticket, conversation_id=conversation_id)
        else:
            claims = self.claims()
        last_event_id = self.header(b"last-event-id") or self.query("last_event_id")
        watch = Watch(conversation_id=conversation_id, last_event_id=last_event_id)
        await self.watch(claims, watch)


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
