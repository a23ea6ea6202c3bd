"""What may happen to a document on its way in: nothing of it is seen too early."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.utils import timezone

from chat.ticker import clean_up
from rag.bases import remove_document
from rag.ingestion import LEASE, digest, fail_abandoned
from rag.models import Chunk, Document, KnowledgeBase
from tests.conftest import Client, Served
from tests.fake_provider import JSON, Script, refusal
from tests.patience import PATIENCE, SOON
from tests.rag.embeddings import (
    STATUTE,
    Embeddings,
    added,
    answer,
    as_sent,
    connected,
    found,
    is_refused,
    upload,
)

# More than are embedded in one request, and more than are stored at once.
ARTICLES = "".join(
    f"第{n}条 这是第{n}条的内容,与其他各条都不同。\n" for n in range(300)
)


def until(condition: Callable[[], Any], seconds: float = SOON) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def unnamed_files() -> int:
    """How many files without a name this process holds: bodies on their way in."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        # It may be closed while it is looked at.
        with suppress(FileNotFoundError):
            found += str(link.readlink()).endswith(" (deleted)")
    return found


@contextmanager
def uploading(
    client: Client, base: str, embeddings: Embeddings, content: str = STATUTE
) -> Iterator[tuple[Script, Future[httpx2.Response]]]:
    """An upload whose vectors have not come; they do when the script is released."""
    embeddings.hold = True
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(upload, client, base, content)
        until(lambda: embeddings.held)
        assert embeddings.held is not None
        yield embeddings.held, future
        embeddings.held.release.set()


class TestAProviderThatFails:
    @pytest.mark.parametrize(
        ("script", "status", "code", "asked"),
        [
            (refusal(401), 502, "provider_auth", 1),
            # Of four chunks, four may be too many, and two.
            (refusal(400), 502, "provider_error", 3),
            (refusal(500), 502, "provider_error", 3),
            (refusal(429), 503, "provider_busy", 3),
            (Script(cut="rst", cut_after=0, status=200), 502, "provider_error", 3),
            (Script(stall_at_headers=True), 504, "provider_timeout", 3),
            (answer([]), 502, "provider_protocol", 1),
            (Script(body=b"<html>"), 502, "provider_protocol", 1),
            (Script(body=b"{", headers=JSON), 502, "provider_protocol", 1),
        ],
    )
    def test_the_upload_fails_and_leaves_nothing(
        self,
        as_alice: Client,
        remote_base: str,
        embeddings: Embeddings,
        impatient: None,
        script: Script,
        status: int,
        code: str,
        asked: int,
    ) -> None:
        embeddings.before = lambda number: script

        response = upload(as_alice, remote_base)

        is_refused(response, status, code)
        assert "refused with" not in response.text
        assert len(embeddings.requests) == asked
        assert not Document.objects.exists()
        assert not Chunk.objects.exists()

    @pytest.mark.parametrize("number", [2, 5])
    def test_half_way_it_leaves_nothing_either(
        self,
        as_alice: Client,
        remote_base: str,
        embeddings: Embeddings,
        number: int,
    ) -> None:
        embeddings.before = lambda n: refusal(401) if n >= number else None

        is_refused(upload(as_alice, remote_base, ARTICLES), 502, "provider_auth")

        assert not Document.objects.exists()
        assert not Chunk.objects.exists()
        assert KnowledgeBase.objects.get().dimension is None
        assert found(as_alice, remote_base, "内容") == []

    def test_afterwards_the_same_document_can_be_added(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        embeddings.scripts = [refusal(401)]
        upload(as_alice, remote_base, ARTICLES)

        response = upload(as_alice, remote_base, ARTICLES)

        assert response.json()["duplicate"] is False
        assert Chunk.objects.count() == response.json()["chunks"] > 256

    def test_a_failure_that_passes_is_not_noticed(
        self,
        as_alice: Client,
        remote_base: str,
        embeddings: Embeddings,
        impatient: None,
    ) -> None:
        embeddings.scripts = [refusal(503), refusal(429)]

        assert upload(as_alice, remote_base).status_code == 200

        assert len(embeddings.requests) == 3

    def test_what_was_there_before_is_still_found(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        document = added(as_alice, remote_base)
        embeddings.before = lambda n: refusal(401) if n == 4 else None

        upload(as_alice, remote_base, ARTICLES)

        embeddings.before = lambda n: None
        ids = {p["doc_id"] for p in found(as_alice, remote_base, "不可抗力")}
        assert ids == {document}

    def test_vectors_of_another_size_are_a_409(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        added(as_alice, remote_base)
        embeddings.dimension += 1

        response = upload(as_alice, remote_base, ARTICLES)

        is_refused(response, 409, "dimension_changed")
        assert Document.objects.count() == 1

    def test_vectors_of_another_size_half_way_are_a_409(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        def change(number: int) -> None:
            # The first 256 chunks are stored by then.
            embeddings.dimension = 65 if number > 4 else 64

        embeddings.before = change

        response = upload(as_alice, remote_base, ARTICLES)

        is_refused(response, 409, "dimension_changed")
        assert not Document.objects.exists()

    def test_of_two_first_documents_with_vectors_of_two_sizes_one_stays(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with uploading(as_alice, remote_base, embeddings) as (_, slow):
            embeddings.dimension += 1
            quick = added(as_alice, remote_base, "Storks have no voice.")

        is_refused(slow.result(), 409, "dimension_changed")
        assert [str(d.pk) for d in Document.objects.all()] == [quick]
        assert Chunk.objects.count() == 1


class TestWhatHappensMeanwhile:
    def test_it_is_invisible_until_it_is_ready(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        added(as_alice, remote_base, "Storks have no voice.")

        with uploading(as_alice, remote_base, embeddings) as (_, upload):
            shown = as_alice.get("/api/rag/doc/list", params={"kb_id": remote_base})
            passages = found(as_alice, remote_base, "不可抗力", mode="keyword")

        assert len(shown.json()["docs"]) == 1
        assert passages == []
        assert upload.result().status_code == 200
        assert found(as_alice, remote_base, "不可抗力", mode="keyword")

    def test_the_base_is_deleted(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with uploading(as_alice, remote_base, embeddings) as (_, upload):
            deleted = as_alice.post("/api/rag/kb/delete", json={"kb_id": remote_base})

        assert deleted.status_code == 200
        is_refused(upload.result(), 404, "not_found")
        assert not Document.objects.exists()
        assert not Chunk.objects.exists()

    def test_the_document_is_deleted(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with uploading(as_alice, remote_base, embeddings) as (_, upload):
            remove_document(Document.objects.get(), by=1)

        is_refused(upload.result(), 404, "not_found")
        assert not Chunk.objects.exists()

    def test_the_client_leaves(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        embeddings.hold = True
        with connected(as_alice) as leaving:
            leaving.sendall(as_sent(as_alice, remote_base, STATUTE.encode()))
            until(lambda: embeddings.held)
        assert embeddings.held is not None
        embeddings.held.release.set()

        # Behind an impatient proxy no large document would ever be added otherwise.
        until(lambda: Document.objects.get().status == "ready")
        assert upload(as_alice, remote_base).json()["duplicate"] is True

    def test_the_client_leaves_before_its_file_is_here(
        self, server: Served, as_alice: Client, base: str
    ) -> None:
        before = unnamed_files()
        request = as_sent(as_alice, base, b"word " * (1 << 20))
        with connected(as_alice) as leaving:
            leaving.sendall(request[: len(request) // 2])
            until(lambda: unnamed_files() == before + 1)

        until(lambda: unnamed_files() == before)
        assert not Document.objects.exists()

    def test_another_sends_the_same_and_the_first_fails(
        self,
        as_alice: Client,
        remote_base: str,
        embeddings: Embeddings,
    ) -> None:
        stalled = refusal(401, stall_at_headers=True)
        embeddings.scripts = [stalled]
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(upload, as_alice, remote_base)
            assert stalled.reached.wait(PATIENCE)
            second = pool.submit(upload, as_alice, remote_base)
            threading.Event().wait(0.3)
            stalled.release.set()

        is_refused(first.result(), 502, "provider_auth")
        assert second.result().json()["duplicate"] is False
        assert Document.objects.get().status == "ready"

    def test_another_sends_the_same_and_the_base_is_deleted(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with (
            uploading(as_alice, remote_base, embeddings) as (_, first),
            ThreadPoolExecutor(1) as pool,
        ):
            second = pool.submit(upload, as_alice, remote_base)
            threading.Event().wait(0.3)
            as_alice.post("/api/rag/kb/delete", json={"kb_id": remote_base})
            is_refused(second.result(), 404, "not_found")

        is_refused(first.result(), 404, "not_found")

    def test_it_is_taken_for_dead(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with uploading(as_alice, remote_base, embeddings) as (_, upload):
            Document.objects.update(lease_until=timezone.now() - LEASE)
            assert fail_abandoned() == 1

        is_refused(upload.result(), 404, "not_found")
        assert Document.objects.get().status == "failed"
        assert not Chunk.objects.exists()

    def test_while_it_is_worked_on_its_lease_is_renewed(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with uploading(as_alice, remote_base, embeddings) as (_, upload):
            before = Document.objects.get().lease_until

            until(lambda: Document.objects.get().lease_until != before)

        assert upload.result().status_code == 200


def left_behind(base: str, *, lease: timedelta) -> Document:
    """What a process leaves that dies between two batches."""
    document = Document.objects.create(
        knowledge_base_id=base,
        name="half.txt",
        type="txt",
        sha256=uuid.uuid4().hex * 2,
        embedding_model="local-ngram",
        claim=uuid.uuid4(),
        lease_until=timezone.now() + lease,
        created_at=timezone.now(),
    )
    Chunk.objects.create(
        document=document,
        ordinal=0,
        text="half",
        start=0,
        end=4,
        embedding=bytes(4),
        terms=b"",
    )
    return document


class TestWhatADeadProcessLeft:
    def test_a_start_ends_it_with_a_reason(self, base: str) -> None:
        left_behind(base, lease=-timedelta(seconds=1))

        clean_up()

        document = Document.objects.get()
        assert (document.status, document.error_code) == ("failed", "interrupted")
        assert (document.claim, document.lease_until) == (None, None)
        assert not Chunk.objects.exists()

    def test_a_living_ones_is_left_alone(self, base: str) -> None:
        left_behind(base, lease=timedelta(seconds=5))

        assert fail_abandoned() == 0

        assert Document.objects.get().status == "processing"
        assert Chunk.objects.exists()

    def test_the_same_document_can_be_added_again(
        self, as_alice: Client, base: str
    ) -> None:
        added(as_alice, base)
        Document.objects.update(status="processing", lease_until=timezone.now() - LEASE)

        assert upload(as_alice, base).json()["duplicate"] is False

        assert Document.objects.get().status == "ready"


def test_a_files_digest_and_size_leave_it_at_its_start() -> None:
    file = io.BytesIO(b"white stork")

    sha256, size = digest(file)

    assert sha256 == hashlib.sha256(b"white stork").hexdigest()
    assert (size, file.read()) == (11, b"white stork")
