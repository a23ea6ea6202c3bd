"""The streaming edge over WebSocket: one socket for one conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from accounts.tokens import Claims, claims_of
from chat.answers import Answers, Reading
from chat.asks import Watch
from chat.encoders import WEBSOCKET
from chat.reading import read_along
from chat.serializers import (
    DEEDS,
    ask_of,
    conversation_id_of,
    json_object,
    message_id_of,
)
from llmbackend.errors import (
    Invalid,
    LLMBackendError,
    NotFound,
    TooLarge,
    Unauthorized,
)
from llmbackend.http import error_body, renamed

SIGN_IN_SECONDS = 5.0
FRAME_LIMIT = 256 << 10
UNAUTHORIZED, NOT_FOUND = 4401, 4404


class ChatSocket(AsyncConsumer):
    """
    /ws/chat/<conversation_id>: commands in, events out, both JSON objects.

    Commands are carried out one after another; only the reading of an answer goes on
    beside them.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self._claims: Claims | None = None
        self._sign_in_timer: asyncio.TimerHandle | None = None
        self._following: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def websocket_connect(self, message: Any) -> None:
        offered = list(self.scope["subprotocols"])
        bearer = len(offered) > 1 and offered[0].lower() == "bearer"
        protocol = "bearer" if bearer else None
        await self.send({"type": "websocket.accept", "subprotocol": protocol})
        if bearer:
            await self._answered(self._sign_in({"token": offered[1]}))
        else:
            loop = asyncio.get_running_loop()
            late = Unauthorized("No token came within five seconds.")
            self._sign_in_timer = loop.call_later(SIGN_IN_SECONDS, self.cut, late)

    async def websocket_receive(self, message: Any) -> None:
        if self._closing is None:
            await self._answered(self._carry_out(message.get("text")))

    async def websocket_disconnect(self, message: Any) -> None:
        self.answers.connections.remove(self)
        if self._sign_in_timer is not None:
            self._sign_in_timer.cancel()
        tasks = {task for task in (self._following, self._closing) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        raise StopConsumer

    async def _answered(self, deed: Coroutine[Any, Any, None]) -> None:
        """Do it, and tell the client of an error that has a name."""
        try:
            await deed
        except Exception as exc:
            error = renamed(exc)
            if error is None:
                raise
            await self._refuse(error)

    async def _carry_out(self, text: str | None) -> None:
        if text is None:
            raise Invalid("A frame must be text.")
        if len(text) > FRAME_LIMIT:
            raise TooLarge("The frame is too large.")
        fields = json_object(text)
        kind = fields.pop("type", None)
        if kind == "auth":
            await self._sign_in(fields)
        elif self._claims is None:
            raise Unauthorized
        elif kind in DEEDS:
            await self._begin(kind, fields, self._claims)
        elif kind == "stop":
            await self._stop(fields, self._claims)
        elif kind == "resume":
            await self._resume(fields, self._claims)
        else:
            known = ", ".join([*DEEDS, "stop", "resume"])
            raise Invalid(f"type: must be one of {known}.")

    @property
    def _conversation_id(self) -> int:
        try:
            return conversation_id_of(
                self.scope["url_route"]["kwargs"]["conversation_id"]
            )
        except Invalid:
            raise NotFound from None

    async def _sign_in(self, fields: Mapping[str, Any]) -> None:
        if self._sign_in_timer is not None:
            self._sign_in_timer.cancel()
        token = fields.get("token")
        if not isinstance(token, str):
            raise Unauthorized
        claims = claims_of(token)
        conversation_id = self._conversation_id
        await self.answers.check(claims=claims, conversation_id=conversation_id)
        self._claims = claims
        self.answers.connections.add(self, claims)
        await self._tell("ready", {"conversation_id": conversation_id})

    async def _begin(self, kind: str, fields: dict[str, Any], claims: Claims) -> None:
        key = fields.pop("idempotency_key", "")
        if not isinstance(key, str):
            raise Invalid("idempotency_key: a string is required.")
        ask = ask_of(kind, fields, conversation_id=self._conversation_id, key=key)
        reading = await self.answers.begin(claims=claims, ask=ask)
        await self._follow(reading)

    async def _resume(self, fields: Mapping[str, Any], claims: Claims) -> None:
        last = fields.get("last_event_id", "")
        if not isinstance(last, str):
            raise Invalid("last_event_id: a string is required.")
        watch = Watch(conversation_id=self._conversation_id, last_event_id=last)
        reading = await self.answers.watch(claims=claims, watch=watch)
        if reading is None:
            await self._tell("idle", {"conversation_id": self._conversation_id})
            return
        if self._following is not None:
            self._following.cancel()
        await self._follow(reading)

    async def _stop(self, fields: Mapping[str, Any], claims: Claims) -> None:
        stopped = await self.answers.request_stop(
            claims=claims,
            conversation_id=self._conversation_id,
            message_id=message_id_of(fields),
        )
        if not stopped:
            await self._tell("idle", {"conversation_id": self._conversation_id})

    async def _follow(self, reading: Reading) -> None:
        """Read along in a task of its own, once what was read before is told."""
        if self._following is not None:
            await asyncio.wait({self._following})
        self._following = asyncio.create_task(self._read(reading))

    async def _read(self, reading: Reading) -> None:
        with self.answers.reading(reading.answer):
            async for frames in read_along(reading, WEBSOCKET):
                await self._send_all(frames)

    async def _tell(self, event: str, data: dict[str, Any]) -> None:
        await self._send_all([WEBSOCKET.frame(event, data)])

    async def _send_all(self, frames: list[str]) -> None:
        for frame in frames:
            await self.send({"type": "websocket.send", "text": frame})

    async def _refuse(self, error: LLMBackendError) -> None:
        await self._send_all(WEBSOCKET.refusal(error_body(error)))
        if isinstance(error, Unauthorized):
            await self._close(UNAUTHORIZED)
        elif isinstance(error, NotFound) and self._claims is None:
            await self._close(NOT_FOUND)

    def cut(self, error: LLMBackendError) -> None:
        """End the socket from outside, telling its reader why."""
        self._closing = asyncio.ensure_future(self._refuse(error))

    async def _close(self, code: int) -> None:
        self.answers.connections.remove(self)
        if self._following is not None:
            self._following.cancel()
        await self.send({"type": "websocket.close", "code": code})
