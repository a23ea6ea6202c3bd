"""A disk on which nothing more can be stored: what is there can be read."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from rag.confinement import Limits
from rag.parsed import Order, Report
from rag.sentences import Sizes
from tests import fake_provider, served
from tests.fake_provider import FakeProvider, Script
from tests.rag.embeddings import make_base, upload
from tests.served import ON_SQLITE, ROOT, ServeProcess

LONG_AGO = "2026-01-01T00:00:00Z"
CREATE = "/api/conversations/create"
# As many as a search makes an index of.
MESSAGES = 500
TEXT = "Storks have no voice. " * 10_000


SILENCED = "UPDATE conversations_writer SET heartbeat_at = '2026-01-01'"
STORED = "SELECT 1 FROM conversations_message WHERE content = 'Hel'"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as provider:
        yield provider


@pytest.fixture
def server(tmp_path: Path, provider: FakeProvider) -> Iterator[ServeProcess]:
    providers = served.fake_section(provider.base_url)
    with served.serving(tmp_path, providers=providers, **ON_SQLITE) as server:
        yield server


def fill(server: ServeProcess, *, up_to: int) -> None:
    """Let no file of the server's be written beyond so many bytes."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (up_to, hard))


def imported(client: httpx2.Client) -> int:
    """A conversation of questions about Rust that no search has met."""
    times = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    messages = [
        {"message_id": n, "role": "user", "content": f"Rust {n}", **times}
        for n in range(1, MESSAGES + 1)
    ]
    one = {"title": "Rust", "model": "gpt-4o", **times, "messages": messages}
    file = {"format": "llmbackend.conversations", "version": 1, "conversations": [one]}
    made = client.post("/api/conversations/import", json=file).json()
    return int(made["conversations"][0]["conversation_id"])


def test_a_conversation_is_read_while_the_heart_of_its_writer_cannot_beat(
    server: ServeProcess, provider: FakeProvider
) -> None:
    held = Script(pieces=["Hel", "lo"], stall_after=1)
    provider.enqueue(held)
    with server.signed_in() as alice, ThreadPoolExecutor(1) as pool:
        made = alice.post(CREATE, json={"model": "gpt-4o"}).json()
        conversation = made["conversation_id"]
        path = f"/api/chat/{conversation}"
        asking = pool.submit(alice.post, path, json={"message": "Hi"})
        server.wait_for(lambda: bool(server.query(STORED)))
        fill(server, up_to=1)
        server.query(SILENCED)

        read = alice.get(f"/api/conversations/history/{conversation}")
        exported = alice.get(f"/api/conversations/{conversation}/export")

        fill(server, up_to=resource.RLIM_INFINITY)
        held.release.set()
        asking.result()

    assert read.status_code == 200, read.text
    assert read.json()["messages"][-1] == {
        "role": "assistant",
        "content": "Hel",
        "message_id": 2,
        "status": "streaming",
    }
    assert exported.status_code == 200, exported.text


def test_what_is_stored_is_read_by_token_and_key_and_the_rest_comes_back(
    server: ServeProcess,
) -> None:
    with server.signed_in() as by_token:
        wanted = {"name": "k", "scopes": ["chat", "account"]}
        key = by_token.post("/api/users/keys", json=wanted).json()["key"]
        conversation = imported(by_token)
        fill(server, up_to=1)
        with server.client(headers={"Authorization": f"Bearer {key}"}) as by_key:
            statuses = {
                client.get(path).status_code
                for client in (by_token, by_key)
                for path in (
                    "/api/users/me",
                    "/api/users/me/usage",
                    "/api/conversations/list",
                    f"/api/conversations/history/{conversation}",
                    "/api/conversations/search?q=rust",
                )
            }
            refused = by_key.post(CREATE, json={"model": "gpt-4o"})
            fill(server, up_to=resource.RLIM_INFINITY)
            made = by_key.post(CREATE, json={"model": "gpt-4o"})

    assert statuses == {200}
    assert refused.status_code == 503, refused.text
    assert refused.json()["code"] == "database_unavailable"
    assert made.status_code == 200, made.text


def test_a_file_that_finds_no_room_is_to_be_sent_again(server: ServeProcess) -> None:
    document = 10 * TEXT.encode()
    with server.signed_in() as alice:
        base = make_base(alice, embedding_model="local-ngram")
        fill(server, up_to=1)
        refused = [
            upload(alice, base, document, name="a.txt"),
            alice.post("/api/conversations/import", content=document),
        ]
        fill(server, up_to=resource.RLIM_INFINITY)
        taken = upload(alice, base, document, name="a.txt")

    assert [answer.status_code for answer in refused] == [503] * 2
    assert {answer.json()["code"] for answer in refused} == {"unavailable"}
    assert "Unhandled error" not in server.log
    assert taken.status_code == 200, taken.text


def test_a_document_whose_text_finds_no_room_is_not_said_to_be_damaged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    with path.open("rb") as document, Path("/dev/full").open("wb") as result:
        order = Order(
            parent=os.getpid(),
            document=document.fileno(),
            result=result.fileno(),
            type="txt",
            encoding="",
            sizes=Sizes(),
            ngrams=False,
            limits=Limits(),
        )
        done = subprocess.run(
            [sys.executable, "-m", "rag.worker"],
            input=order.to_line(),
            pass_fds=(order.document, order.result),
            capture_output=True,
            cwd=ROOT,
            check=True,
        )

    assert Report.from_line(done.stdout).code == "unavailable"
