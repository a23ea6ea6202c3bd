"""BoundedProtocol, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import uvicorn
from websockets.sync.client import connect

from llmbackend.protocol import BoundedProtocol, PatientSocket
from llmbackend.serving import bind, uvicorn_config
from tests.patience import PATIENCE

WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAM\r\n"


class Impatient(BoundedProtocol):
    head_seconds = 0.3
    head_bytes = 4096


async def application(scope: Any, receive: Any, send: Any) -> None:
    """
    Answers 200 at once on /early, elsewhere after the whole body; /echo says it.

    /header says what the header X is.
    """
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    more, body = scope["path"] != "/early", b""
    while more:
        message = await receive()
        more, body = message["more_body"], body + message["body"]
    by_path = {"/echo": body, "/header": dict(scope["headers"]).get(b"x", b"")}
    said = by_path.get(scope["path"], b"ok")
    headers = [(b"Content-Length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    config = uvicorn_config(application)
    config.http = Impatient
    config.timeout_keep_alive = 1
    yield from served(config)


def served(
    config: uvicorn.Config, *, host: str = "127.0.0.1"
) -> Iterator[tuple[str, int]]:
    """The address of a server that runs meanwhile."""
    server = uvicorn.Server(config)
    listening = bind(host=host, port=0)
    found = listening.getsockname()
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield found
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with closing(socket.create_connection(address, timeout=PATIENCE)) as made:
        yield made


def everything(connection: socket.socket) -> bytes:
    """What arrives until the server closes; fails when it does not."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "begun", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: a\r\n"]
)
def test_half_a_head_does_not_keep_a_connection(
    connection: socket.socket, begun: bytes
) -> None:
    connection.sendall(begun)

    assert everything(connection) == b""


def test_nor_does_half_of_the_next_one(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")

    assert everything(connection).endswith(b"\r\n\r\nok")


def test_a_head_that_dribbles_has_no_more_time(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n")
    connection.settimeout(0.02)
    for number in range(500):
        try:
            connection.sendall(b"X-%d: 1\r\n" % number)
            if connection.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    else:
        pytest.fail("The connection was kept.")
    assert number < 100


def test_a_body_has_its_own_time(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
    connection.settimeout(0.6)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.sendall(b"ab")

    assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_rest_of_a_refused_body_is_not_read_for_ever(
    connection: socket.socket,
) -> None:
    connection.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\n")
    connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")

    with pytest.raises(ConnectionError):
        send_for_ten_seconds(connection, b"10000\r\n" + b"x" * 65536 + b"\r\n")


def send_for_ten_seconds(connection: socket.socket, part: bytes) -> None:
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at:
        connection.sendall(part)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n", 400, "invalid"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid"),
        (b"GET /" + b"a" * 5000, 413, "too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X-A: %b\r\n" % (b"b" * 90) * 50, 413, "too_large"),
    ],
)
def test_what_is_no_request_is_answered_in_the_one_form(
    connection: socket.socket, request_: bytes, status: int, code: str
) -> None:
    connection.sendall(request_)

    head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["code"] == code
    assert json.loads(body)["request_id"].encode() in head


@pytest.mark.parametrize("line", [b"X: a b", b"X:a b", b"X: \t a b \t ", b"X: a b\t"])
def test_blanks_around_a_headers_value_are_not_of_it(
    connection: socket.socket, line: bytes
) -> None:
    connection.sendall(b"GET /header HTTP/1.1\r\nHost: a\r\nConnection: close\r\n")
    connection.sendall(line + b"\r\n\r\n")

    assert everything(connection).endswith(b"\r\n\r\na b")


ENDS = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("asked", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("pause", [0, 0.05])
def test_who_asks_for_another_protocol_is_answered_in_this_one(
    connection: socket.socket, asked: bytes, framing: str, pause: float
) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\n" + asked
    if framing == "length":
        parts = [head + b"Content-Length: 5\r\n\r\n", b"hello"]
    else:
        parts = [
            head + b"Transfer-Encoding: chunked\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
        ]
    for part in parts if pause else [b"".join(parts)]:
        connection.sendall(part)
        time.sleep(pause)
    connection.sendall(ENDS)

    answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b"\r\n\r\nhello" in answers


def test_who_asks_for_another_protocol_often_is_answered_as_often(
    connection: socket.socket,
) -> None:
    once = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    connection.sendall(once * 1200 + ENDS)

    assert everything(connection).count(b"HTTP/1.1 200") == 1201


def test_a_socket_that_cannot_be_asked_for_is_closed(connection: socket.socket) -> None:
    connection.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 200)
    connection.sendall(WEBSOCKET + b"\r\n")

    assert everything(connection).startswith(b"HTTP/1.1 431")


@pytest.fixture(scope="module")
def offering() -> Iterator[tuple[str, int]]:
    class Brief(BoundedProtocol):
        stall_seconds = 1.0

    class BriefSocket(PatientSocket):
        stall_seconds = 1.0

    config = uvicorn_config(endless)
    config.http, config.ws = Brief, BriefSocket
    yield from served(config)


class TestClientsThatTakeNothing:
    """A server that offers without end, and clients that stop taking."""

    def test_a_stalled_stream_is_dropped(self, offering: tuple[str, int]) -> None:
        left.clear()
        with closing(socket.create_connection(offering, timeout=PATIENCE)) as stalled:
            stalled.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

            assert left.wait(PATIENCE)
            assert offered[-1] < 64 << 20

    def test_a_stalled_socket_is_dropped(self, offering: tuple[str, int]) -> None:
        left.clear()
        url = f"ws://{offering[0]}:{offering[1]}/"
        with connect(url, max_queue=1, close_timeout=0, compression=None):
            assert left.wait(PATIENCE)

    def test_a_slow_one_is_not(self, offering: tuple[str, int]) -> None:
        left.clear()
        with closing(socket.create_connection(offering, timeout=PATIENCE)) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(15):
                assert not left.wait(0.1)
                taken = 0
                while taken < 4 << 20:
                    taken += len(slow.recv(1 << 20))
        assert left.wait(PATIENCE)

    def test_one_that_takes_little_at_a_time_is_not(
        self, offering: tuple[str, int]
    ) -> None:
        left.clear()
        with closing(socket.socket()) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(PATIENCE)
            slow.connect(offering)
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(60):
                slow.recv(2048)
                assert not left.wait(0.05)
        assert left.wait(PATIENCE)


left = threading.Event()
offered: list[int] = [0]


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Sends until its client has left, over HTTP and WebSocket."""
    if scope["type"] == "lifespan":
        await application(scope, receive, send)
        return
    offered.append(0)
    await receive()
    gone = asyncio.ensure_future(receive())
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = {"type": "http.response.body", "body": b"x" * 16384, "more_body": True}
    else:
        await send({"type": "websocket.accept"})
        piece = {"type": "websocket.send", "text": "x" * 16384}
    with suppress(OSError):
        while not gone.done():
            await send(dict(piece))
            offered[-1] += 16384
            await asyncio.sleep(0)
    await gone
    left.set()


@pytest.mark.parametrize("path", [b"/api/rag/kb/list", b"/api/rag/chat?x=1"])
def test_a_client_of_knowledge_bases_is_answered_in_theirs(
    connection: socket.socket, path: bytes
) -> None:
    connection.sendall(b"GET %b HTTP/1.1\r\n" % path + b"X-A: %b\r\n" % (b"b" * 5000))

    _, _, body = everything(connection).partition(b"\r\n\r\n")
    told = json.loads(body)
    assert (told["success"], told["code"]) == (False, "too_large")
    assert told["message"] == told["error"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_who_does_not_speak_http_is_logged_by_the_address_of_all_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "llmbackend.access")
    for _, port, *_ in served(uvicorn_config(application), host="::"):
        with closing(socket.create_connection(("127.0.0.1", port))) as made:
            made.sendall(b"nonsense\r\n\r\n")
            made.settimeout(PATIENCE)
            while made.recv(4096):
                pass

    (said,) = [r.getMessage() for r in caplog.records if "access" in r.name]
    assert said.startswith('127.0.0.1 "- -" 400 ')
