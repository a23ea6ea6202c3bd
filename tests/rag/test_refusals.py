"""Every error to a client of knowledge bases, over real HTTP, has their form."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import httpx2
import pytest

from rag.models import Chunk
from tests.conftest import Client, Served
from tests.patience import PATIENCE
from tests.rag.documents import OLE, pages_pdf, raw_docx
from tests.rag.embeddings import added, is_refused, retrieve, upload
from tests.routes import METHODS, api_routes

PATHS = sorted(r.path for r in api_routes() if r.path.startswith("/api/rag/"))
# What each takes; a consumer names no methods.
TAKEN = {r.path: r.methods or {"POST"} for r in api_routes() if r.path in PATHS}
WITH_BODIES = [path for path in PATHS if TAKEN[path] == {"POST"}]
every_path = pytest.mark.parametrize("path", PATHS)
UPLOAD = "/api/rag/doc/upload"
OVER_THE_LIMIT = {UPLOAD: 52 << 20, "/api/rag/chat": 257 << 10}


def test_there_are_nine_of_them() -> None:
    assert len(PATHS) == 9
    assert len(WITH_BODIES) == 6


def answer_to(server: Served, request: bytes) -> httpx2.Response:
    """What the server says to bytes on a socket."""
    host, _, port = server.base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(request)
        answer = HTTPResponse(client)
        answer.begin()
        return httpx2.Response(answer.status, content=answer.read())


@every_path
@pytest.mark.parametrize("token", ["", "Bearer", "Bearer x.y.z", "Basic YTpi"])
def test_without_a_good_token(anonymous: Client, path: str, token: str) -> None:
    headers = {"Authorization": token} if token else {}

    for method in TAKEN[path]:
        response = anonymous.request(method, path, headers=headers)

        is_refused(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@every_path
def test_by_another_method(as_alice: Client, path: str) -> None:
    for method in {*METHODS, "OPTIONS", "PROPFIND"} - TAKEN[path]:
        is_refused(as_alice.request(method, path), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["", "kb", "kb/", "kb/nothing", "nothing", "%00", "é"])
def test_at_an_address_where_nothing_is(as_alice: Client, path: str) -> None:
    is_refused(as_alice.get(f"/api/rag/{path}"), 404, "not_found")


@every_path
def test_under_a_name_that_is_not_ours(as_alice: Client, path: str) -> None:
    response = as_alice.post(path, headers={"Host": "evil.example"})

    is_refused(response, 400, "bad_host")


@pytest.mark.parametrize("path", WITH_BODIES)
def test_with_a_body_that_is_declared_too_large(server: Served, path: str) -> None:
    size = OVER_THE_LIMIT.get(path, 2 << 20)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"

    is_refused(answer_to(server, head.encode()), 413, "too_large")


@pytest.mark.parametrize("path", WITH_BODIES)
def test_with_a_body_that_grows_too_large(as_alice: Client, path: str) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(0, OVER_THE_LIMIT.get(path, 2 << 20), 1 << 16):
            yield b" " * (1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    is_refused(as_alice.post(path, content=parts(), headers=headers), 413, "too_large")


@pytest.mark.parametrize("path", [path for path in WITH_BODIES if path != UPLOAD])
@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 99_999])
def test_with_a_body_that_is_no_object(
    as_alice: Client, path: str, content: bytes
) -> None:
    response = as_alice.post(path, content=content)

    is_refused(response, 400, "invalid")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "x", ""])
def test_with_a_document_that_is_in_no_form(
    as_alice: Client, base: str, content_type: str
) -> None:
    response = as_alice.post(
        UPLOAD,
        content=b'{"kb_id": "x"}',
        headers={"Content-Type": content_type},
    )

    is_refused(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.txt", b" \n", "empty_document"),
        ("a.docx", raw_docx("<broken"), "unreadable_document"),
        (
            "a.docx",
            OLE + "EncryptedPackage".encode("utf-16-le"),
            "encrypted_document",
        ),
        ("a.pdf", pages_pdf(b""), "no_text"),
        ("a.pdf", b"text", "unsupported_type"),
        ("a.txt", b"\xb9\xfa", "unknown_encoding"),
    ],
)
def test_with_a_document_that_cannot_be_read(
    as_alice: Client, base: str, name: str, content: bytes, code: str
) -> None:
    is_refused(upload(as_alice, base, content, name=name), 400, code)


class TestWhenTheServerErrs:
    """A stored vector of a wrong length is a mistake nobody foresaw."""

    @pytest.fixture(autouse=True)
    def _broken(self, as_alice: Client, base: str) -> None:
        added(as_alice, base)
        Chunk.objects.update(embedding=b"xyz")

    def test_in_a_view(self, as_alice: Client, base: str) -> None:
        is_refused(retrieve(as_alice, base, "不可抗力"), 500, "internal")

    def test_in_an_answer(self, as_alice: Client, base: str) -> None:
        ask: dict[str, Any] = {"kb_id": base, "message": "不可抗力"}
        ask["conversation_id"] = as_alice.conversation()

        response = as_alice.post("/api/rag/chat", json=ask)

        is_refused(response, 500, "internal")
