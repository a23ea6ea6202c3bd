"""The streaming edge over WebSocket: one socket for one conversation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from contextvars import copy_context
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from accounts.tokens import Claims, claims_of
from chat.answers import Answers, Reading
from chat.asks import Watch
from chat.encoders import WEBSOCKET
from chat.live import LiveAnswer
from chat.reading import read_along
from chat.serializers import (
    DEEDS,
    ask_of,
    conversation_id_of,
    json_object,
    message_id_of,
)
from llmbackend.errors import (
    Forbidden,
    Internal,
    Invalid,
    LLMBackendError,
    NotFound,
    TooLarge,
    Unauthorized,
)
from llmbackend.http import error_body, renamed

logger = logging.getLogger(__name__)

FRAME_LIMIT = 256 << 10
INTERNAL, COME_BACK, TRY_AGAIN = 1011, 1012, 1013
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 4401, 4403, 4404


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
        self._answer: LiveAnswer | None = None
        self._following: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self._closed = False
        # In which log lines and errors bear the request id of this socket.
        self._context = copy_context()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # A client that leaves in the middle of a command is told of by `send`.
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._let_go()

    async def websocket_connect(self, message: Any) -> None:
        offered = list(self.scope["subprotocols"])
        bearer = len(offered) > 1 and offered[0].lower() == "bearer"
        protocol = "bearer" if bearer else None
        await self.send({"type": "websocket.accept", "subprotocol": protocol})
        if bearer:
            await self._answered(self._sign_in({"token": offered[1]}))
        else:
            late = Unauthorized("No token came in time.")
            self._sign_in_timer = asyncio.get_running_loop().call_later(
                self.answers.connections.sign_in_seconds, self.cut, late
            )

    async def websocket_receive(self, message: Any) -> None:
        if not self._ending and not self._closed:
            await self._answered(self._carry_out(message.get("text")))

    async def websocket_disconnect(self, message: Any) -> None:
        raise StopConsumer

    async def _let_go(self) -> None:
        """Leave nothing behind."""
        self._closed = True
        self.answers.connections.remove(self)
        if self._sign_in_timer is not None:
            self._sign_in_timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # An OSError is how `send` tells that the client has left.
        if error is not None and not isinstance(error, OSError):
            logger.error("Reading along over a WebSocket failed", exc_info=error)
            self.cut(Internal())

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
        if len(text.encode()) > FRAME_LIMIT:
            raise TooLarge("The frame is too large.")
        fields = json_object(text)
        kind = str(fields.pop("type", ""))
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
        await self._follow(reading, at_once=True)

    async def _stop(self, fields: Mapping[str, Any], claims: Claims) -> None:
        stopped = await self.answers.request_stop(
            claims=claims,
            conversation_id=self._conversation_id,
            message_id=message_id_of(fields),
        )
        if not stopped:
            await self._tell("idle", {"conversation_id": self._conversation_id})

    async def _follow(self, reading: Reading, *, at_once: bool = False) -> None:
        """
        Read along in a task of its own, once what was read before is told to its end.

        With `at_once`, or if it is the same answer, that is broken off.
        """
        before, same = self._following, self._answer is reading.answer
        self._answer = reading.answer
        self._following = self._own(self._read(reading, after=before))
        if before is None:
            return
        # The new reader counts first: the last one's leaving may stop an answer.
        await asyncio.sleep(0)
        if at_once or same:
            before.cancel()
        await asyncio.wait({before})

    async def _read(self, reading: Reading, after: asyncio.Task[None] | None) -> None:
        with self.answers.reading(reading.answer):
            if after is not None:
                await asyncio.wait({after})
            end = await read_along(reading, WEBSOCKET, self._send_all)
            await self._send_all(end or [])
        if end is None:
            # In a task of its own: closing ends this one.
            self._own(self._close(COME_BACK))

    async def _tell(self, event: str, data: dict[str, Any]) -> None:
        await self._send_all([WEBSOCKET.frame(event, data)])

    async def _send_all(self, frames: list[str]) -> None:
        for frame in frames:
            if not self._closed:
                await self.send({"type": "websocket.send", "text": frame})

    async def _refuse(self, error: LLMBackendError) -> None:
        await self._send_all(WEBSOCKET.refusal(error_body(error)))
        code = self._code_after(error)
        if code is not None:
            await self._close(code)

    def _code_after(self, error: LLMBackendError) -> int | None:
        """What the socket is closed with after `error`; None: it stays open."""
        if isinstance(error, Unauthorized):
            return UNAUTHORIZED
        if isinstance(error, Internal):
            return INTERNAL
        if self._claims is not None or isinstance(error, Invalid | TooLarge):
            return None
        if isinstance(error, Forbidden):
            return FORBIDDEN
        return NOT_FOUND if isinstance(error, NotFound) else TRY_AGAIN

    def cut(self, error: LLMBackendError) -> None:
        """End the socket from outside, telling its reader why."""
        if not self._ending and not self._closed:
            self._ending = True
            self._context.run(self._own, self._refuse(error))

    async def _close(self, code: int) -> None:
        if self._closed:
            return
        self._closed = True
        self.answers.connections.remove(self)
        if self._following is not None:
            self._following.cancel()
        await self.send({"type": "websocket.close", "code": code})
