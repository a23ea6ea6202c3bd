"""What holds for every request, whoever answers it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import httpx2
import pytest

from llmbackend import config
from llmbackend.guard import BodyLimit, Guard, client_address
from llmbackend.routes import Routes
from tests.conftest import Client
from tests.logged import logged_here
from tests.patience import PATIENCE

HOSTS = ("localhost", ".example.com")
Pairs = list[tuple[bytes, bytes]]


@dataclass
class Inner:
    """The application behind the guard: reads the whole body, then answers 200."""

    scopes: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None
    headers: Pairs = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        while (await receive()).get("more_body"):
            pass
        if self.error:
            raise self.error
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.headers}
        )
        await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    read: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    inner: Inner,
    *,
    method: str = "POST",
    path: str = "/api/chat/1",
    headers: dict[str, str] | None = None,
    parts: Iterable[bytes] = (b"",),
    between: float = 0,
    peer: str = "127.0.0.1",
    server: config.Server | None = None,
    default_limit: int = 1000,
    body_pause: float = 0.05,
    body_patience: float = 0.1,
) -> Answer:
    """One request through a guard of its own; the last of `parts` ends the body."""
    given = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"token=secret",
        "client": (peer, 1),
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
    }
    guard = Guard(
        inner,
        server=server or config.Server(),
        hosts=HOSTS,
        limits=[BodyLimit(paths=re.compile("/api/chat/"), limit=100)],
        routes=Routes([]),
        default_limit=default_limit,
        body_pause=body_pause,
        body_patience=body_patience,
    )
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if left:
        left[-1]["more_body"] = False
    offered, sent = len(left), []

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        await asyncio.sleep(between)
        return left.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    found = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    body = b"".join(message["body"] for message in sent[1:])
    return Answer(sent[0]["status"], found, body, offered - len(left))


class TestHost:
    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "a.example.com"])
    async def test_ours_is_answered(self, host: str) -> None:
        assert (await ask(Inner(), headers={"host": host})).status == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "", "localhost.evil", "localhost@evil", "a b", "[::1"]
    )
    async def test_another_is_refused_before_anything_runs(self, host: str) -> None:
        inner = Inner()

        answer = await ask(inner, headers={"host": host})

        assert answer.status == 400
        assert answer.json["code"] == "bad_host"
        assert not inner.scopes


class TestBody:
    async def test_up_to_the_limit_is_taken(self) -> None:
        answer = await ask(Inner(), parts=[b"x" * 60, b"x" * 40])

        assert answer.status == 200

    async def test_a_declared_size_is_refused_unread(self) -> None:
        answer = await ask(Inner(), headers={"content-length": "101"})

        assert answer.status == 413
        assert answer.json["code"] == "too_large"
        assert answer.read == 0

    async def test_without_a_declared_size_it_is_counted_as_it_arrives(self) -> None:
        answer = await ask(Inner(), parts=[b"x" * 60] * 1000)

        assert answer.status == 413
        assert answer.read == 2

    async def test_other_paths_have_the_default_limit(self) -> None:
        path = "/api/conversations/create"

        assert (await ask(Inner(), path=path, parts=[b"x" * 1000])).status == 200
        assert (await ask(Inner(), path=path, parts=[b"x" * 1001])).status == 413

    @pytest.mark.parametrize("method", ["POST", "GET"])
    async def test_one_that_stops_arriving_is_given_up(self, method: str) -> None:
        chunked = {"transfer-encoding": "chunked"}

        async with asyncio.timeout(PATIENCE):
            answer = await ask(Inner(), method=method, headers=chunked, parts=[])

        assert answer.status == 400
        assert "in time" in answer.json["error"]

    async def test_one_that_dribbles_is_given_up(self) -> None:
        answer = await ask(
            Inner(), parts=[b"x"] * 500, between=0.01, body_pause=9, body_patience=0.5
        )

        assert answer.status == 400
        assert "in time" in answer.json["error"]
        assert 5 < answer.read < 500

    async def test_one_that_comes_slowly_but_comes_is_taken(self) -> None:
        answer = await ask(
            Inner(),
            path="/api/conversations/create",
            parts=[b"x" * 600] * 16,
            between=0.01,
            default_limit=10_000,
            body_pause=9,
        )

        assert answer.status == 200

    @pytest.mark.parametrize(
        "refused",
        [
            {"headers": {"host": "evil.example"}},
            {"headers": {"content-length": "1001"}},
            {"parts": [b"x" * 600] * 2},
            {"parts": []},
            {"parts": [b"x"] * 50, "between": 0.01},
        ],
    )
    async def test_a_client_of_knowledge_bases_is_refused_in_their_form(
        self, refused: dict[str, Any]
    ) -> None:
        answer = await ask(Inner(), path="/api/rag/doc/upload", **refused)

        assert answer.status in {400, 413}
        assert answer.json["success"] is False
        assert answer.json["message"] == answer.json["error"]


class TestCors:
    preflight = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }

    @pytest.mark.parametrize("path", ["/api/chat/1", "/api/chat/1/", "/api/nothing"])
    async def test_a_preflight_is_answered_without_a_token(self, path: str) -> None:
        inner = Inner()

        answer = await ask(inner, method="OPTIONS", path=path, headers=self.preflight)

        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert not inner.scopes

    async def test_errors_can_be_read_by_the_page_too(self) -> None:
        answer = await ask(Inner(error=ValueError("a bug")))

        assert answer.status == 500
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers

    async def test_a_list_of_origins_names_the_one_that_asks(self) -> None:
        server = config.Server(cors_origins=("https://app.example",))

        ours = await ask(Inner(), headers=self.preflight, server=server)
        foreign = await ask(Inner(), headers={"origin": "https://evil"}, server=server)

        assert ours.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-origin" not in foreign.headers
        assert ours.headers["vary"] == foreign.headers["vary"] == "Origin"

    async def test_the_admin_is_for_its_own_pages_alone(self) -> None:
        answer = await ask(Inner(), path="/admin/", headers=self.preflight)

        assert "access-control-allow-origin" not in answer.headers


class TestHeaders:
    async def test_each_answer_has_the_security_headers(self) -> None:
        for answer in (await ask(Inner()), await ask(Inner(error=ValueError()))):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "same-origin"

    async def test_what_the_application_says_itself_counts(self) -> None:
        inner = Inner(headers=[(b"x-frame-options", b"SAMEORIGIN")])

        assert (await ask(inner)).headers["x-frame-options"] == "SAMEORIGIN"

    async def test_only_a_trusted_proxy_may_say_that_tls_was_used(self) -> None:
        inner = Inner()
        server = config.Server(trusted_proxies=("10.0.0.2",))
        forwarded = {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1"}

        await ask(inner, headers=forwarded, server=server, peer="10.0.0.9")
        await ask(inner, headers=forwarded, server=server, peer="10.0.0.2")

        names = [{name for name, _ in scope["headers"]} for scope in inner.scopes]
        assert b"x-forwarded-proto" not in names[0]
        assert b"x-forwarded-proto" in names[1]


class TestRequestId:
    async def test_header_body_and_log_agree(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        from llmbackend.log import RequestIdFilter

        caplog.handler.addFilter(RequestIdFilter())
        with caplog.at_level(logging.INFO, "llmbackend.access"):
            answer = await ask(Inner(error=ValueError("a bug")))

        named = answer.headers["x-request-id"]
        assert answer.json == {
            "error": "The server made a mistake; it has been logged.",
            "code": "internal",
            "request_id": named,
        }
        assert {getattr(r, "request_id", "") for r in logged_here(caplog)} == {named}

    async def test_each_request_has_its_own(self) -> None:
        ids = [(await ask(Inner())).headers["x-request-id"] for _ in "123"]

        assert len(set(ids)) == 3


class TestAccessLine:
    async def test_one_line_without_the_query_string(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "llmbackend.access"):
            await ask(Inner(), path="/api/chat/1\nforged")

        lines = [r.getMessage() for r in logged_here(caplog) if "access" in r.name]
        assert len(lines) == 1
        assert re.fullmatch(
            r'127\.0\.0\.1 "POST /api/chat/1\?forged" 200 \d+ ms', lines[0]
        )

    @pytest.mark.parametrize(
        ("peer", "forwarded", "client"),
        [
            ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),
            ("10.0.0.2", ["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.2", ["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.2", ["1.1.1.1, 203.0.113.9, 10.0.0.3"], "203.0.113.9"),
            ("10.0.0.2", ["1.1.1.1", "203.0.113.9", "10.0.0.3"], "203.0.113.9"),
            ("10.0.0.2", ["203.0.113.9", "not an address"], "10.0.0.2"),
            ("10.0.0.2", ["203.0.113.9:51234"], "203.0.113.9"),
            ("10.0.0.2", ["[2001:db8::9]:51234, 10.0.0.3:80"], "2001:db8::9"),
            ("10.0.0.2", ["2001:db8::9"], "2001:db8::9"),
            ("10.0.0.2", ["[2001:db8::9]"], "2001:db8::9"),
            ("10.0.0.2", [""], "10.0.0.2"),
            ("10.0.0.2", [], "10.0.0.2"),
        ],
    )
    def test_the_client_is_whom_a_trusted_proxy_names(
        self, peer: str, forwarded: list[str], client: str
    ) -> None:
        lines = [(b"x-forwarded-for", line.encode()) for line in forwarded]
        scope = {"client": (peer, 1), "headers": lines}

        assert client_address(scope, ("10.0.0.2", "10.0.0.3")) == client


class TestServed:
    """The same through the whole project, over a socket."""

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/nope", 404, "not_found"),
            ("GET", "/api/nope", 404, "not_found"),
            ("OPTIONS", "/nope", 404, "not_found"),
            ("GET", "/api/%ff%fe", 404, "not_found"),
            ("GET", "/api/%00", 404, "not_found"),
            ("GET", "/" + "a" * 30_000, 404, "not_found"),
            ("GET", "/api/users/login", 405, "method_not_allowed"),
            ("OPTIONS", "/api/users/login", 405, "method_not_allowed"),
            ("PROPFIND", "/api/users/login", 405, "method_not_allowed"),
            ("GET", "/api/chat/1", 405, "method_not_allowed"),
            ("TRACE", "/api/chat/1", 405, "method_not_allowed"),
            ("POST", "/healthz", 405, "method_not_allowed"),
        ],
    )
    def test_what_is_not_there_answers_in_the_one_form(
        self, anonymous: Client, method: str, path: str, status: int, code: str
    ) -> None:
        answer = anonymous.request(method, path)

        assert answer.status_code == status
        assert answer.json()["code"] == code
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/api/users/login", {"POST"}),
            ("/api/users/me", {"GET", "HEAD", "PATCH", "DELETE"}),
            ("/healthz", {"GET", "HEAD"}),
            ("/api/chat/1", {"POST"}),
            ("/api/chat/1/edit", {"POST"}),
            ("/api/chat/1/stream", {"GET"}),
            ("/api/rag/chat", {"POST"}),
        ],
    )
    def test_a_405_says_what_is_allowed(
        self, as_alice: Client, path: str, allowed: set[str]
    ) -> None:
        for method in ("PUT", "OPTIONS"):
            answer = as_alice.request(method, path)

            assert answer.status_code == 405
            assert {*answer.headers["Allow"].split(", ")} == allowed

    def test_of_two_hosts_neither_is_believed(self, anonymous: Client) -> None:
        base = anonymous.base_url
        with closing(HTTPConnection(base.host, base.port or 80)) as connection:
            connection.putrequest("GET", "/healthz", skip_host=True)
            connection.putheader("Host", "localhost")
            connection.putheader("Host", "localhost")
            connection.endheaders()
            answer = connection.getresponse()
            body = json.load(answer)

        assert (answer.status, body["code"]) == (400, "bad_host")

    def test_head_answers_like_get_without_a_body(self, anonymous: Client) -> None:
        assert anonymous.head("/healthz").status_code == 200
        missing = anonymous.head("/nope")
        assert (missing.status_code, missing.content) == (404, b"")

    def test_a_trailing_slash_makes_no_difference_and_no_redirect(
        self, anonymous: Client
    ) -> None:
        for path in ("/healthz/", "/readyz/"):
            assert anonymous.get(path).status_code == 200
        for path in ("/api/chat/1/", "/api/conversations/list/"):
            assert anonymous.request("GET", path).status_code in {401, 405}

    @pytest.mark.parametrize("path", ["/api/chat/1", "/api/conversations/create"])
    @pytest.mark.parametrize("body", [b"null", b"", b"[]", b"\xff", b'{"message":'])
    def test_a_body_that_is_no_object_is_no_crash(
        self, as_alice: Client, path: str, body: bytes
    ) -> None:
        answer = as_alice.post(path, content=body)

        assert answer.status_code == 400
        assert answer.json()["code"] == "invalid"

    @pytest.mark.parametrize("path", ["/api/chat/1", "/api/conversations/create"])
    def test_a_large_body_is_refused_declared_or_not(
        self, as_alice: Client, path: str
    ) -> None:
        size = 3 << 20
        declared = as_alice.post(path, content=b"x" * size)
        chunked = as_alice.post(path, content=(b"x" * 65536 for _ in range(48)))

        for answer in (declared, chunked):
            assert answer.status_code == 413
            assert answer.json()["code"] == "too_large"

    def test_another_origins_websocket_is_refused(self, anonymous: Client) -> None:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        for path in ("/ws/nope", "/api/chat/1", "/healthz"):
            answer: httpx2.Response = anonymous.get(path, headers=upgrade)
            assert answer.status_code == 403
