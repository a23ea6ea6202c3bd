"""A provider's `/embeddings`, and what a client does to a knowledge base."""

from __future__ import annotations

import base64
import json
import socket
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import numpy as np

from tests.fake_provider import JSON, Request, Script
from tests.patience import PATIENCE

DIMENSION = 64

STATUTE = (
    "第一条 当事人一方因不可抗力不能履行合同的,根据影响部分或者全部免除责任。\n"
    "第二条 当事人迟延履行后发生不可抗力的,不免除其违约责任。\n"
    "第三条 租赁期限不得超过二十年。超过二十年的,超过部分无效。\n"
    "第四条 买受人应当按照约定的时间支付价款。\n"
)
BIRDS = (
    "Swallows leave in September and winter south of the Sahara.\n\n"
    "The common swift spends almost its whole life in the air.\n\n"
    "Storks clatter with their bills, because they have no voice.\n"
)


def vector_of(text: str, *, dimension: int = DIMENSION) -> np.ndarray[Any, Any]:
    """Texts that share words or characters are near each other."""
    vector = np.full(dimension, 0.01, np.float32)
    for word in [*text.lower().split(), *text]:
        vector[zlib.crc32(word.encode()) % dimension] += 1
    return vector * 3  # Not of unit length: making it so is the client's business.


def encoded(vector: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def item(index: int, text: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "embedding": encoded(vector_of(text, **more))}


def bilingual(text: str) -> np.ndarray[Any, Any]:
    """
    A vector of a text's language and of the one thing of four that it names: near are
    texts in one language, less near those that name the same in another.
    """
    vector = np.zeros(DIMENSION, np.float32)
    vector[0 if text.isascii() else 1] = 1.2
    for axis, names in enumerate(("swift 雨燕", "stork 鹳", "lease 租", "rent 价"), 2):
        vector[axis] = any(name in text.lower() for name in names.split())
    return vector


def answer(data: Sequence[Any]) -> Script:
    body = json.dumps({"object": "list", "data": data, "model": "embed-3"})
    return Script(body=body.encode(), headers=JSON)


class Embeddings:
    """
    Answers `/embeddings`, and counts how often.

    `scripts` are answers to be given first; `before` is called with each request's
    number, from 1, and what it returns is the answer unless it is None. The first
    good answer after `hold` comes when `held` is released. `vector` is what a text is
    embedded as.
    """

    def __init__(self) -> None:
        self.dimension = DIMENSION
        self.requests: list[Any] = []
        self.keys: list[str] = []
        self.scripts: list[Script] = []
        self.before: Callable[[int], Script | None] = lambda number: None
        self.hold = False
        self.held: Script | None = None
        self.vector: Callable[[str], np.ndarray[Any, Any]] = lambda text: vector_of(
            text, dimension=self.dimension
        )

    def __call__(self, request: Request) -> Script:
        self.requests.append(request.body)
        self.keys.append(request.api_key)
        if self.scripts:
            return self.scripts.pop(0)
        scripted = self.before(len(self.requests))
        if scripted is not None:
            return scripted
        texts = request.body["input"]
        data = [
            {"index": n, "embedding": encoded(self.vector(text))}
            for n, text in enumerate(texts)
        ]
        script = answer(data[::-1])
        if self.hold:
            self.hold, self.held, script.stall_at_headers = False, script, True
        return script

    @property
    def texts(self) -> list[str]:
        return [text for request in self.requests for text in request["input"]]


def make_base(client: httpx2.Client, **fields: Any) -> str:
    response = client.post("/api/rag/kb/create", json={"kb_name": "知识库", **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["kb_id"])


def upload(
    client: httpx2.Client,
    base: str,
    content: str | bytes = STATUTE,
    *,
    name: str = "合同.txt",
    **fields: str,
) -> httpx2.Response:
    data = content.encode() if isinstance(content, str) else content
    return client.post(
        "/api/rag/doc/upload",
        data={"kb_id": base, **fields},
        files={"file": (name, data)},
    )


def added(client: httpx2.Client, base: str, *args: Any, **fields: Any) -> str:
    """The id of a document that is now in the base."""
    response = upload(client, base, *args, **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["doc_id"])


def retrieve(
    client: httpx2.Client, base: str, query: str, **fields: Any
) -> httpx2.Response:
    body = {"kb_id": base, "query": query, **fields}
    return client.post("/api/rag/retrieve", json=body)


def found(client: httpx2.Client, base: str, query: str, **fields: Any) -> list[Any]:
    response = retrieve(client, base, query, **fields)
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def is_refused(response: httpx2.Response, status: int, code: str, **facts: Any) -> None:
    """The body of every error to a client of knowledge bases."""
    assert response.status_code == status, response.text
    body = response.json()
    every = ["success", "message", "error", "code", "request_id"]
    assert list(body) == [*every, *facts]
    assert body == {**body, **facts}
    assert body["success"] is False
    assert body["message"] == body["error"] != ""
    assert body["code"] == code


def as_sent(
    client: httpx2.Client, base: str, content: bytes, *, name: bytes = b"a.txt"
) -> bytes:
    """The bytes of an upload, its file's name as it stands."""
    form = (
        b'--x\r\nContent-Disposition: form-data; name="kb_id"\r\n\r\n%b\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n'
        b"%b\r\n--x--\r\n" % (base.encode(), name, content)
    )
    head = (
        "POST /api/rag/doc/upload HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(form)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + form


def connected(client: httpx2.Client) -> socket.socket:
    """A connection of its own to a client's server."""
    url = client.base_url
    return socket.create_connection((url.host, url.port or 80), timeout=PATIENCE)


def answer_on(connection: socket.socket) -> httpx2.Response:
    """What a server says, and then closes."""
    said = b""
    while part := connection.recv(65536):
        said += part
    head, _, body = said.partition(b"\r\n\r\n")
    return httpx2.Response(int(head.split()[1]), content=body)
