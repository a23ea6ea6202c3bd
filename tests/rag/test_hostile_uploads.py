"""Hostile files sent to a real server: they are refused, and it stays as it was."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.rag.documents import simple_docx
from tests.rag.embeddings import (
    BIRDS,
    added,
    as_sent,
    connected,
    is_refused,
    make_base,
    upload,
)
from tests.rag.hostile import HOSTILE, MIB, calling
from tests.served import ServeProcess, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with serving(tmp_path_factory.mktemp("hostile"), providers=[]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServeProcess) -> Iterator[httpx2.Client]:
    with server.signed_in() as client:
        client.timeout = httpx2.Timeout(60)
        yield client


@pytest.fixture(scope="module")
def base(client: httpx2.Client) -> str:
    """A base of a server that has done everything once."""
    base = make_base(client)
    added(client, base, BIRDS)
    added(client, base, simple_docx("Storks have no voice."), name="a.docx")
    upload(client, base, b"word " * MIB, name="a.pdf")
    return base


class Watched:
    """The most memory a server and the processes it starts have had."""

    def __init__(self, server: ServeProcess) -> None:
        self._process = psutil.Process(server.process.pid)
        self.at_first = self.most = self._process.memory_info().rss
        self.most_of_a_child = 0

    def look(self) -> None:
        self.most = max(self.most, self._process.memory_info().rss)
        for child in self._process.children():
            with suppress(psutil.Error):
                rss = child.memory_info().rss
                self.most_of_a_child = max(self.most_of_a_child, rss)


@contextmanager
def watched(server: ServeProcess) -> Iterator[None]:
    """The server may not grow by more than 20 MiB meanwhile, a child to 512 MiB."""
    memory, done = Watched(server), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            memory.look()

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield
        finally:
            done.set()
    watching.result()
    assert memory.most - memory.at_first < 20 * MIB
    assert memory.most_of_a_child < 512 * MIB


def unnamed_files(server: ServeProcess) -> int:
    """Files without a name that the server holds: bodies on their way in."""
    links = Path(f"/proc/{server.process.pid}/fd").iterdir()
    return sum(str(link.resolve()).endswith(" (deleted)") for link in links)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_a_400_within_seconds_and_the_memory_does_not_move(
    server: ServeProcess, client: httpx2.Client, base: str, case: str
) -> None:
    name, made = HOSTILE[case]
    content, process = made(), server.process.pid

    with watched(server):
        began = time.monotonic()
        response = upload(client, base, content, name=name)
        took = time.monotonic() - began

    assert response.status_code == 400, response.text
    is_refused(response, 400, response.json()["code"])
    assert took < 45
    assert unnamed_files(server) == 0
    assert (server.process.poll(), server.process.pid) == (None, process)
    assert not server.workers()


def test_two_hundred_megabytes_are_a_413_and_nothing_of_them_is_kept(
    server: ServeProcess, client: httpx2.Client, base: str
) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * MIB

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with watched(server):
        try:
            path = "/api/rag/doc/upload"
            response = client.post(path, content=parts(), headers=headers)
            is_refused(response, 413, "too_large")
        except httpx2.WriteError:
            pass  # The server closed before the rest was sent.

    assert unnamed_files(server) == 0


def test_a_client_that_leaves_half_way_leaves_nothing(
    server: ServeProcess, client: httpx2.Client, base: str
) -> None:
    before = client.get("/api/rag/doc/list", params={"kb_id": base}).json()["docs"]
    request = as_sent(client, base, b"other " * MIB)
    with connected(client) as leaving:
        leaving.sendall(request[: len(request) // 2])
        server.wait_for(lambda: unnamed_files(server) == 1)

    server.wait_for(lambda: unnamed_files(server) == 0)
    after = client.get("/api/rag/doc/list", params={"kb_id": base}).json()["docs"]
    assert after == before


class Listening:
    """A port of this machine that nobody should ask for anything."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def was_asked(self) -> bool:
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


CALLING = {
    "relations": 200,
    "links": 200,
    "entity": 400,
    "file": 400,
    "definition": 400,
}


def test_nothing_a_document_names_is_fetched_or_read(
    client: httpx2.Client, base: str
) -> None:
    with closing(Listening()) as elsewhere:
        statuses = {
            name: upload(client, base, content, name="a.docx").status_code
            for name, content in calling(elsewhere.url).items()
        }

        assert not elsewhere.was_asked()
    assert statuses == CALLING
    asked = {"kb_id": base, "query": "root swallow", "top_k": 50, "mode": "keyword"}
    found = client.post("/api/rag/retrieve", json=asked).json()["results"]
    assert "swallow" in {passage["content"] for passage in found}
    assert not any("root:" in passage["content"] for passage in found)
