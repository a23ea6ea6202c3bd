"""What a provider's HTTP may look like, byte by byte, against a socket that says it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import re
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import Mock

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmbackend.upstream import HEAD_BYTES, Response, Upstream
from tests.certificates import self_signed
from tests.patience import PATIENCE

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 5\r\n\r\n"
HELLO = OK + LENGTH + b"hello"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = OK + CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


class Host:
    """
    Answers each request by the next of `says`, its parts written one by one; closes
    where there are none.
    """

    def __init__(self) -> None:
        self.port = 0
        self.says: list[list[bytes]] = []
        self.then_closes = False
        self.requests: list[bytes] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.gone = 0

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                assert length is not None
                self.requests.append(head + await reader.readexactly(int(length[1])))
                parts = self.says.pop(0)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.002)
                if self.then_closes or not parts:
                    break
        self.gone += 1
        writer.close()


class Body:
    """Takes a body."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.error: Exception | None = None
        self.over = asyncio.Event()
        self.grown = asyncio.Event()

    def take(self, data: bytes) -> None:
        assert not self.over.is_set()
        self.parts.append(data)
        self.grown.set()

    def end(self, error: Exception | None) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    async with await asyncio.start_server(host.serve, "127.0.0.1", 0) as server:
        host.port = server.sockets[0].getsockname()[1]
        yield host
        for writer in host.connections:
            writer.close()


@pytest.fixture
async def upstream(host: Host) -> AsyncIterator[Upstream]:
    url = httpx2.URL(f"http://127.0.0.1:{host.port}/v1/")
    upstream = Upstream(url, tls=ssl.create_default_context())
    yield upstream
    upstream.close()


async def post(upstream: Upstream, body: bytes = b"{}") -> Response:
    async with asyncio.timeout(PATIENCE):
        return await upstream.post(b"/v1/x", headers={"A": "b"}, body=body, connect=5)


async def told(response: Response) -> Body:
    """All of a response's body."""
    body = Body()
    response.hand_to(body)
    async with asyncio.timeout(PATIENCE):
        await body.over.wait()
    return body


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it may be anything
            await asyncio.sleep(0.001)


async def test_asks_with_a_length_and_its_headers(host: Host, upstream: Upstream):
    host.says = [[HELLO]]

    response = await post(upstream, b'{"q":1}')

    assert host.requests == [
        b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nA: b\r\nContent-Length: 7\r\n"
        b'\r\n{"q":1}' % host.port
    ]
    response.close()


WHOLE = {
    "a length": [HELLO],
    "chunks": [CHUNKS],
    "byte by byte": [bytes([byte]) for byte in CHUNKS],
    "a hint before it": [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", HELLO],
    "a hint in the same packet": [b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO],
    "chunks with extensions, and trailers": [
        OK + CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"
    ],
    "lines of the head that end like Unix's": [HELLO.replace(b"\r\n", b"\n")],
    "sizes with blanks after them": [
        OK + CHUNKED + b"5  \r\nhello\r\n",
        b"0  \r\n\r\n",
    ],
    "a header on two lines, and one that is no text": [
        OK + b"A: b\r\n  c\r\nD: \x01\r\n" + LENGTH + b"hello"
    ],
}


@pytest.mark.parametrize("said", WHOLE.values(), ids=WHOLE.keys())
async def test_hands_over_a_body_and_keeps_the_connection(
    host: Host, upstream: Upstream, said: list[bytes]
):
    host.says = [said, said, said]

    for _ in range(3):
        response = await post(upstream)
        body = await told(response)

        assert response.status == 200
        assert (b"".join(body.parts), body.error) == (b"hello", None)

    assert len(host.connections) == 1


CLOSED = {
    "no length": OK + b"\r\nhello",
    "the provider closes": OK + b"Connection: close\r\n" + LENGTH + b"hello",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"hello",
}


@pytest.mark.parametrize("said", CLOSED.values(), ids=CLOSED.keys())
async def test_a_connection_that_ends_is_not_kept(
    host: Host, upstream: Upstream, said: bytes
):
    host.says = [[said], [said]]
    host.then_closes = True

    for _ in range(2):
        body = await told(await post(upstream))
        assert (b"".join(body.parts), body.error) == (b"hello", None)

    assert len(host.connections) == 2


BROKEN = {
    "a length not reached": OK + b"Content-Length: 6\r\n\r\nhello",
    "chunks without an end": OK + CHUNKED + b"5\r\nhello\r\n",
    "no chunk where one should be": OK + CHUNKED + b"5\r\nhello\r\nwhat?\r\n",
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
async def test_a_body_that_breaks_off_is_told_as_far_as_it_came(
    host: Host, upstream: Upstream, said: bytes
):
    host.says = [[said]]
    host.then_closes = True

    body = await told(await post(upstream))

    assert b"".join(body.parts) == b"hello"
    assert isinstance(body.error, httpx2.TransportError)


WITH_MORE = {
    "bytes after a length": (LENGTH + b"hel", b"lo!"),
    "a second end": (CHUNKED + b"3\r\nhel\r\n", b"2\r\nlo\r\n" + b"0\r\n\r\n" * 2),
    "another answer": (LENGTH + b"hel", b"lo" + HELLO),
}


@pytest.mark.parametrize(("begun", "rest"), WITH_MORE.values(), ids=WITH_MORE.keys())
async def test_what_is_whole_is_not_spoilt_by_what_comes_with_its_end(
    host: Host, upstream: Upstream, begun: bytes, rest: bytes
):
    host.says = [[OK + begun], [HELLO]]
    body = Body()
    (await post(upstream)).hand_to(body)
    await eventually(lambda: body.parts)

    host.connections[0].write(rest)
    async with asyncio.timeout(PATIENCE):
        await body.over.wait()
    await told(await post(upstream))

    assert (body.parts, body.error) == ([b"hel", b"lo"], None)
    assert len(host.connections) == 2


async def test_what_comes_with_what_breaks_off_is_told(host: Host, upstream: Upstream):
    host.says = [[OK + CHUNKED + b"3\r\nhel\r\n"]]
    body = Body()
    (await post(upstream)).hand_to(body)
    await eventually(lambda: body.parts)

    host.connections[0].write(b"2\r\nlo\r\nwhat?\r\n")
    async with asyncio.timeout(PATIENCE):
        await body.over.wait()

    assert body.parts == [b"hel", b"lo"]
    assert isinstance(body.error, httpx2.RemoteProtocolError)


NO_HEAD = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nA: b",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n"
    b"Connection: upgrade\r\n\r\n",
    "a large header": OK + b"A: " + b"x" * HEAD_BYTES + b"\r\n" + LENGTH + b"hello",
    "many headers": OK + b"A: b\r\n" * HEAD_BYTES + LENGTH + b"hello",
}


@pytest.mark.parametrize("said", NO_HEAD.values(), ids=NO_HEAD.keys())
async def test_what_is_no_answer_is_an_error(
    host: Host, upstream: Upstream, said: bytes
):
    host.says = [[said]]
    host.then_closes = True

    with pytest.raises(httpx2.TransportError):
        await post(upstream)


async def test_a_head_without_an_end_is_not_listened_to_for_long(
    host: Host, upstream: Upstream
):
    host.says = [[OK + b"A: ", *[b"x" * 4096] * 1000]]

    with pytest.raises(httpx2.RemoteProtocolError):
        await post(upstream)

    await eventually(lambda: host.gone == 1)


async def test_each_part_is_handed_over_when_it_comes(host: Host, upstream: Upstream):
    host.says = [[OK + CHUNKED]]
    body = Body()
    (await post(upstream)).hand_to(body)

    for part in [b"he", b"llo"]:
        body.grown.clear()
        host.connections[0].write(b"%x\r\n%b\r\n" % (len(part), part))
        async with asyncio.timeout(PATIENCE):
            await body.grown.wait()

    assert body.parts == [b"he", b"llo"]


async def test_one_packet_is_one_part(host: Host, upstream: Upstream):
    host.says = [[CHUNKS]]

    body = await told(await post(upstream))

    assert body.parts == [b"hello"]


async def test_closing_in_the_middle_closes_the_connection(
    host: Host, upstream: Upstream
):
    host.says = [[OK + CHUNKED + b"5\r\nhello\r\n"]]
    response = await post(upstream)

    response.close()

    await eventually(lambda: host.gone == 1)


async def test_what_has_said_all_may_still_end_and_be_kept(
    host: Host, upstream: Upstream
):
    host.says = [[OK + CHUNKED + b"5\r\nhello\r\n"], [HELLO]]
    response = await post(upstream)

    response.close(within=5)
    host.connections[0].write(b"0\r\n\r\n")
    await asyncio.sleep(0.05)
    await told(await post(upstream))

    assert len(host.connections) == 1


async def test_what_does_not_end_in_time_is_closed(host: Host, upstream: Upstream):
    host.says = [[OK + CHUNKED + b"5\r\nhello\r\n"]]
    response = await post(upstream)

    response.close(within=0.02)

    await eventually(lambda: host.gone == 1)


async def test_a_kept_connection_that_has_gone_is_not_used(
    host: Host, upstream: Upstream
):
    host.says = [[HELLO], [HELLO]]
    host.then_closes = True
    await told(await post(upstream))
    await eventually(lambda: host.gone == 1)
    await asyncio.sleep(0.02)

    body = await told(await post(upstream))

    assert (body.parts, len(host.connections)) == ([b"hello"], 2)


async def test_kept_connections_that_go_when_they_are_used_cost_nothing(
    host: Host, upstream: Upstream
):
    host.says = [[HELLO]] * 4
    for response in await asyncio.gather(*(post(upstream) for _ in range(4))):
        await told(response)
    host.says = [[], [HELLO]]

    body = await told(await post(upstream))

    assert body.parts == [b"hello"]
    assert (len(host.requests), len(host.connections)) == (6, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets have filters on Linux")
async def test_a_kept_connection_that_something_swallows_is_given_up(
    host: Host, upstream: Upstream
):
    upstream.unacknowledged = 0.5
    host.says = [[HELLO], [HELLO]]
    await told(await post(upstream))
    swallow(host.connections[0].get_extra_info("socket"))

    body = await told(await post(upstream))

    assert body.parts == [b"hello"]
    assert (len(host.requests), len(host.connections)) == (2, 2)


def swallow(sock: socket.socket) -> None:
    """Drop all that comes to a socket, as a firewall does that has forgotten it."""
    # struct sock_filter: BPF_RET | BPF_K, of no bytes; struct sock_fprog; see bpf(2).
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
    filters = struct.pack("@HP", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, 26, filters)  # SO_ATTACH_FILTER


async def test_a_new_connection_that_goes_is_an_error(host: Host, upstream: Upstream):
    host.says = [[], [HELLO]]

    with pytest.raises(httpx2.ReadError):
        await post(upstream)

    assert len(host.requests) == 1


async def test_a_kept_connection_that_speaks_unasked_is_closed(
    host: Host, upstream: Upstream
):
    host.says = [[HELLO], [HELLO]]
    await told(await post(upstream))

    host.connections[0].write(HELLO)
    await eventually(lambda: host.gone == 1)
    await told(await post(upstream))

    assert len(host.connections) == 2


async def test_closing_closes_what_is_kept_and_keeps_no_more(
    host: Host, upstream: Upstream
):
    host.says = [[HELLO], [OK + CHUNKED]]
    running = await post(upstream)
    await told(running)
    running = await post(upstream)

    upstream.close()
    host.connections[0].write(b"0\r\n\r\n")
    await told(running)

    await eventually(lambda: host.gone == 1)


async def test_cancelling_before_the_head_closes_the_connection(
    host: Host, upstream: Upstream
):
    host.says = [[b"HTTP/1.1 200"]]
    posting = asyncio.create_task(post(upstream))
    await eventually(lambda: host.requests)

    posting.cancel()
    await asyncio.wait({posting})

    await eventually(lambda: host.gone == 1)


@pytest.mark.parametrize("known", [True, False])
async def test_speaks_tls_with_whom_it_knows(host: Host, tmp_path: Path, known: bool):
    path = self_signed(tmp_path)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(path)
    ours = ssl.create_default_context(cafile=path if known else None)
    host.says = [[HELLO], [CHUNKS]]
    async with await asyncio.start_server(host.serve, "127.0.0.1", ssl=theirs) as tls:
        port = tls.sockets[0].getsockname()[1]
        upstream = Upstream(httpx2.URL(f"https://127.0.0.1:{port}"), tls=ours)
        if known:
            bodies = [await told(await post(upstream)) for _ in range(2)]
            assert [b"".join(body.parts) for body in bodies] == [b"hello"] * 2
            assert len(host.connections) == 1
        else:
            with pytest.raises(httpx2.ConnectError):
                await post(upstream)
            assert host.requests == []
        upstream.close()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(0, 400), max_size=6),
)
async def test_a_body_is_the_same_however_it_is_cut(
    host: Host, upstream: Upstream, chunks: list[bytes], cuts: list[int]
):
    said = OK + CHUNKED
    said += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in chunks)
    said += b"0\r\n\r\n"
    edges = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    host.says = [[said[start:end] for start, end in itertools.pairwise(edges)]]

    body = await told(await post(upstream))

    assert (b"".join(body.parts), body.error) == (b"".join(chunks), None)
    assert len(host.connections) == 1


async def test_a_size_that_is_cut_is_no_chunk_of_what_follows():
    """The second read looks like a chunk of four bytes, and is of one of twenty."""
    reads = [b"5\r\nhello\r\n1", b"4\r\nabcd\r\n", b"e" * 14 + b"\r\n0\r\n\r\n"]
    response, body = Response(Mock(), Mock()), Body()
    response.data_received(OK + CHUNKED)
    response.hand_to(body)

    for each in reads:
        response.data_received(each)

    assert b"".join(body.parts) == b"helloabcd\r\n" + b"e" * 14
    assert body.over.is_set()
    assert body.error is None


@pytest.mark.parametrize("size", [b"%x", b"%X", b"0%x", b"%x;a=b", b"%x "])
async def test_chunks_that_come_one_by_one_are_whole(
    host: Host, upstream: Upstream, size: bytes
):
    parts = [b"a" * 10, b"\r\n", b"0", b"0\r\n", b"b" * 27, b"5\r\nhello\r\n"]
    chunks = [(size + b"\r\n%b\r\n") % (len(part), part) for part in parts]
    says = [OK + CHUNKED, *chunks, b"0\r\n\r\n"]
    host.says = [says, says]

    bodies = [await told(await post(upstream)) for _ in range(2)]

    assert [body.parts for body in bodies] == [parts, parts]
    assert [body.error for body in bodies] == [None, None]
    assert len(host.connections) == 1


async def test_what_is_within_a_chunk_is_not_taken_for_one(
    host: Host, upstream: Upstream
):
    host.says = [[OK + CHUNKED, b"a\r\n", b"5\r\nhello\r\n", b"\r\n0\r\n\r\n"]]

    body = await told(await post(upstream))

    assert (b"".join(body.parts), body.error) == (b"5\r\nhello\r\n", None)


async def test_a_chunk_of_another_size_than_it_says_breaks_off(
    host: Host, upstream: Upstream
):
    host.says = [[OK + CHUNKED, b"2\r\nhe\r\n", b"3\r\nhello\r\n"]]

    body = await told(await post(upstream))

    assert b"".join(body.parts) == b"hehel"
    assert isinstance(body.error, httpx2.RemoteProtocolError)
