"""
A scriptable OpenAI-compatible provider on a loopback socket.

It runs on a thread of its own and writes raw bytes, so that a test can have it do to
the real client whatever a provider does in the field:

    with fake_provider.running() as fake:
        fake.enqueue(Script(pieces=["Hel", "lo"], cut="fin", finish_reason=None))
        ...
        assert fake.requests[0].body["model"] == "gpt-fake"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests import loops
from tests.patience import PATIENCE, SOON

JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8"}
LONGEST_WAIT = 2 * PATIENCE
ENDLESSLY = math.inf
# In a piece, stands for the time at which it is written, in seconds (monotonic).
NOW = "(now)"


@dataclass
class Request:
    """One request as it arrived, and how its connection fared."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    client_left_at: float | None = None
    finished: bool = False

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None

    @property
    def api_key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass
class Script:
    """
    How one request is answered.

    A chat answer is `prelude`, `reasoning`, `pieces`, `chunks` (objects sent as they
    are), the finish reason, the usage and [DONE], each an event of its own, and bytes
    as a `tail`. `body` replaces all but the tail by bytes. `stall_after` and `cut` take
    effect after that many events; a stall lasts until `release` is set or the client
    leaves. `pause` comes before each write, and what is written last is sent again
    `repeats` times. A cut by garbage sends what is no chunk where one should begin.
    """

    pieces: Sequence[str] = ("Hel", "lo", "!")
    reasoning: Sequence[str] = ()
    chunks: Sequence[Any] = ()
    finish_reason: str | None = "stop"
    usage: tuple[int, int] | None = (7, 3)
    done: bool = True
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    prelude: bytes = b""
    tail: bytes = b""
    newline: bytes = b"\n"
    pause: float = 0.0
    slice: int = 0
    framing: Literal["chunked", "close"] = "chunked"
    cut: Literal["fin", "rst", "garbage"] | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    stall_at_headers: bool = False
    heartbeat: float = 0.0
    repeats: float = 0
    release: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def events(self) -> list[bytes]:
        """The answer's bytes, one element an event."""
        tail = [self.tail] if self.tail else []
        if self.body is not None:
            return [self.body, *tail]
        objects = [_delta({"reasoning_content": text}) for text in self.reasoning]
        objects += [_delta({"content": text}) for text in self.pieces]
        objects += self.chunks
        if self.finish_reason is not None:
            objects.append(_delta({}, finish_reason=self.finish_reason))
        if self.usage is not None:
            objects.append(_usage(*self.usage))
        payloads = [json.dumps(item).encode() for item in objects]
        if self.done:
            payloads.append(b"[DONE]")
        events = [b"data: " + payload + self.newline * 2 for payload in payloads]
        return events + tail


def _delta(delta: dict[str, Any], *, finish_reason: str | None = None) -> Any:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "choices": [choice], "usage": None}


def _usage(prompt: int, answer: int) -> Any:
    counts = {"prompt_tokens": prompt, "completion_tokens": answer}
    return {"choices": [], "usage": {**counts, "total_tokens": prompt + answer}}


def whole(text: str, **more: Any) -> Script:
    """An answer in one JSON object, as a provider gives that ignores `stream`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": _usage(7, 3)["usage"]})
    return Script(body=body.encode(), headers=JSON, **more)


def refusal(status: int, error: Mapping[str, Any] | None = None, **more: Any) -> Script:
    """A status other than 200, with OpenAI's error object."""
    said = error or {"message": f"refused with {status}", "code": None}
    headers = {**JSON, **more.pop("headers", {})}
    body = json.dumps({"error": said}).encode()
    return Script(status=status, headers=headers, body=body, **more)


Route = Callable[[Request], Script]


class FakeProvider:
    """
    Answers each request by the first script that waits for it, else by `default`.

    `routes` maps another path to a function that makes its answer.
    """

    def __init__(self) -> None:
        self.default = Script()
        self.routes: dict[str, Route] = {}
        self.requests: list[Request] = []
        self.base_url = ""
        self.connections = 0
        self._queue: deque[Script] = deque()
        self._matched: list[tuple[Callable[[Request], bool], Script]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = threading.Condition()
        self._given: list[Script] = []

    def reset(self) -> None:
        """Forget what was scripted and asked, and let every stall go on."""
        self.release_all()
        self.default = Script()
        for kept in (self.routes, self.requests, self._queue, self._matched):
            kept.clear()

    def release_all(self) -> None:
        """Let every answer that stalls go on."""
        for script in self._given:
            script.release.set()
        self._given.clear()

    @property
    def open_connections(self) -> int:
        """Connections a client holds now, idle ones too."""
        return len(self._writers)

    @property
    def answering(self) -> int:
        """Requests whose answer is still being sent."""
        ended = sum(r.finished or r.client_left_at is not None for r in self.requests)
        return len(self.requests) - ended

    def enqueue(self, *scripts: Script) -> None:
        """Answer the next requests by these, one each."""
        self._queue.extend(scripts)

    def when(self, matches: Callable[[Request], bool], script: Script) -> None:
        """Answer every request that `matches` by `script`."""
        self._matched.append((matches, script))

    def wait_until(self, condition: Callable[[], bool], seconds: float = SOON) -> bool:
        """Block until `condition` holds; False when it does not in time."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    async def until(self, condition: Callable[[], bool], seconds: float = SOON) -> bool:
        """`wait_until` for a test that runs on a loop."""
        return await asyncio.to_thread(self.wait_until, condition, seconds)

    def script_for(self, request: Request) -> Script:
        path = request.path.partition("?")[0]
        for suffix, route in self.routes.items():
            if path.endswith(suffix):
                return route(request)
        for matches, script in self._matched:
            if matches(request):
                return script
        if not path.endswith("/chat/completions"):
            return refusal(404)
        return self._queue.popleft() if self._queue else self.default

    def note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        left: asyncio.Event,
    ) -> None:
        """Answer one connection's requests until it ends; `left` tells that it did."""
        self.connections += 1
        self._writers.add(writer)
        self.note()
        try:
            while request := await _read_request(reader):
                self.requests.append(request)
                self.note()
                if not await self._answer(request, writer, left):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self._writers.discard(writer)
            self.note()

    async def _answer(
        self,
        request: Request,
        writer: asyncio.StreamWriter,
        left: asyncio.Event,
    ) -> bool:
        """Send the answer; whether the connection may be used again."""
        script = self.script_for(request)
        self._given.append(script)
        sending = asyncio.ensure_future(_send(script, writer))
        leaving = asyncio.ensure_future(left.wait())
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            request.client_left_at = time.monotonic()
        for task in (leaving, sending):
            task.cancel()
        sent, _ = await asyncio.gather(sending, leaving, return_exceptions=True)
        request.finished = isinstance(sent, bool)
        if not request.finished and request.client_left_at is None:
            request.client_left_at = time.monotonic()
        self.note()
        return sent is True


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = [line.split(":", 1) for line in lines]
    headers = {name.lower(): value.strip() for name, value in pairs}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method=method, path=path, headers=headers, raw=raw)


class _Connection(asyncio.StreamReaderProtocol):
    """A stream that says when its client leaves, while nobody reads from it."""

    def __init__(self, fake: FakeProvider) -> None:
        self.left = asyncio.Event()
        super().__init__(asyncio.StreamReader(), self._serve)
        self._fake = fake

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Python 3.11 reports a connection's cancelled task as a failed callback.
        with contextlib.suppress(asyncio.CancelledError):
            await self._fake.serve(reader, writer, self.left)

    def eof_received(self) -> bool | None:
        self.left.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.left.set()
        super().connection_lost(exc)


async def _send(script: Script, writer: asyncio.StreamWriter) -> bool:
    if script.stall_at_headers:
        await _held(script, writer)
    chunked = script.framing == "chunked"
    writer.write(_head(script, chunked=chunked))
    async for piece in _paced(script, writer):
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        writer.write(framed)
        await writer.drain()
    if script.cut == "rst":
        _reset(writer)
    if script.cut == "garbage":
        writer.write(b"no length\r\n")
        await writer.drain()
    if script.cut or not chunked:
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _head(script: Script, *, chunked: bool) -> bytes:
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
    headers = {**EVENTS, **framing, **script.headers}
    lines = [f"HTTP/1.1 {script.status} Scripted"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _paced(script: Script, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
    """The script's bytes as they are to be written, with its pauses in between."""
    if script.prelude:
        yield script.prelude
    events = script.events()
    for number, event in enumerate(events):
        if number == script.cut_after:
            return
        if number == script.stall_after:
            await _held(script, writer)
        size = script.slice or len(event) or 1
        for start in range(0, len(event), size):
            await asyncio.sleep(script.pause)
            yield _stamped(event[start : start + size])
    if script.stall_after is not None and script.stall_after >= len(events):
        await _held(script, writer)
    left = script.repeats
    while left > 0:
        await asyncio.sleep(script.pause)
        yield _stamped(events[-1])
        left -= 1


def _stamped(event: bytes) -> bytes:
    return event.replace(NOW.encode(), b"%.6f" % time.monotonic())


async def _held(script: Script, writer: asyncio.StreamWriter) -> None:
    """Wait for `release`, with a comment line at each heartbeat if asked for."""
    script.reached.set()
    deadline = time.monotonic() + LONGEST_WAIT
    last = time.monotonic()
    while not script.release.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(0.002)
        if script.heartbeat and time.monotonic() - last >= script.heartbeat:
            last = time.monotonic()
            comment = b": still here\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(comment), comment))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Make the coming close an RST: linger for no time."""
    plain: socket.socket = writer.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def running(*, tls: ssl.SSLContext | None = None) -> Iterator[FakeProvider]:
    """A provider that listens until the block ends, on https where there is `tls`."""
    fake = FakeProvider()
    with loops.running("fake-provider") as loop:
        address = loop.listen(
            loop.asyncio.create_server(
                lambda: _Connection(fake), "127.0.0.1", 0, ssl=tls
            )
        )
        fake.base_url = f"{'https' if tls else 'http'}://{address}/v1"
        yield fake
