"""A real server is killed at each stage of an upload, and started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from tests import fake_provider, served
from tests.fake_provider import FakeProvider, Script
from tests.patience import SOON
from tests.rag.embeddings import Embeddings, added, found, make_base, upload
from tests.served import ServeProcess

# More than are embedded in one request, and more than are stored at once.
ARTICLES = "".join(
    f"第{n}条 这是第{n}条的内容,与其他各条都不同。\n" for n in range(300)
)
LONG = "a b. " * (3 << 20)
# Makes the statement that shows a document take hours.
HELD_FLIP = {
    "SQLite": """
        CREATE TRIGGER held BEFORE UPDATE OF status ON rag_document
        WHEN NEW.status = 'ready' BEGIN
            SELECT count(*) FROM rag_chunk a, rag_chunk b, rag_chunk c, rag_chunk d;
        END
    """,
    "PostgreSQL": """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(7200); RETURN NEW; END $$;
        CREATE TRIGGER held BEFORE UPDATE OF status ON rag_document FOR EACH ROW
        WHEN (NEW.status = 'ready') EXECUTE FUNCTION wait()
    """,
}
# PostgreSQL does not look at a session's client before its statement is over.
LEFT_GO = {
    "SQLite": "DROP TRIGGER IF EXISTS held",
    "PostgreSQL": """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
        DROP FUNCTION IF EXISTS wait CASCADE
    """,
}


def documents(server: ServeProcess) -> list[tuple[str, str, int]]:
    return server.query("SELECT status, stage, chunks_done FROM rag_document")


class Upload:
    """One upload to a server that will not survive it, in a thread of its own."""

    def __init__(
        self, server: ServeProcess, client: httpx2.Client, embeddings: Embeddings
    ) -> None:
        self.server, self.client, self.embeddings = server, client, embeddings
        self.base = make_base(client, embedding_model="fake-embedding")
        self.content = ARTICLES

    def stops_while_it_is_parsed(self) -> Callable[[], bool]:
        self.content = LONG
        return lambda: (
            bool(self.server.workers())
            and documents(self.server) == [("processing", "received", 0)]
        )

    def stops_before_its_first_vector(self) -> Callable[[], bool]:
        self.embeddings.before = lambda number: stalled()
        return lambda: (
            bool(self.embeddings.requests)
            and documents(self.server) == [("processing", "chunked", 0)]
        )

    def stops_when_a_part_is_stored(self) -> Callable[[], bool]:
        self.embeddings.before = lambda number: stalled() if number > 4 else None
        return lambda: documents(self.server) == [("processing", "chunked", 256)]

    def stops_while_it_is_shown(self) -> Callable[[], bool]:
        self.server.query(HELD_FLIP[self.server.kind])
        return lambda: documents(self.server) == [("processing", "chunked", 300)]

    def is_killed(self, arrived: Callable[[], bool]) -> None:
        """Send it, and kill the server, and it alone, when it has arrived there."""
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(upload, self.client, self.base, self.content)
            self.server.wait_for(lambda: sending.done() or arrived())
            assert not sending.done(), sending.result().text
            children = self.server.workers()
            self.server.process.kill()
            self.server.process.wait()
            assert isinstance(sending.exception(), httpx2.TransportError)
        _, alive = psutil.wait_procs(children, timeout=SOON)
        assert not alive

    def goes_on(self) -> None:
        """Nobody holds anything up any more, and the dead one's lease has run out."""
        self.embeddings.before = lambda number: None
        self.server.query(LEFT_GO[self.server.kind])
        self.server.query("UPDATE rag_document SET lease_until = '2000-01-01'")


def stalled() -> Script:
    return Script(stall_at_headers=True)


STAGES = [
    Upload.stops_while_it_is_parsed,
    Upload.stops_before_its_first_vector,
    Upload.stops_when_a_part_is_stored,
    Upload.stops_while_it_is_shown,
]


@contextmanager
def serving(directory: Path, provider: FakeProvider) -> Iterator[ServeProcess]:
    [section] = served.fake_section(provider.base_url)
    section["embedding_models"] = {"fake-embedding": "embed-3"}
    with served.serving(directory, providers=[section]) as server:
        yield server


@pytest.mark.parametrize("stops", STAGES, ids=lambda stops: stops.__name__)
def test_wherever_it_is_killed_nothing_half_done_is_seen(
    tmp_path: Path, stops: Callable[[Upload], Callable[[], bool]]
) -> None:
    embeddings = Embeddings()
    with (
        fake_provider.running() as provider,
        serving(tmp_path, provider) as server,
        server.signed_in() as client,
    ):
        provider.routes["/embeddings"] = embeddings
        killed = Upload(server, client, embeddings)
        killed.is_killed(stops(killed))
        killed.goes_on()

        server.start()
        server.wait_until_ready()

        rows = server.query("SELECT status, error_code, claim FROM rag_document")
        assert rows == [("failed", "interrupted", None)]
        assert server.query("SELECT count(*) FROM rag_chunk") == [(0,)]
        assert server.query("SELECT dimension FROM rag_knowledgebase") == [(None,)]
        if server.kind == "SQLite":
            assert server.query("PRAGMA integrity_check") == [("ok",)]
        assert "1 documents were left unfinished" in server.log
        assert found(client, killed.base, "内容") == []
        listed = client.get("/api/rag/doc/list", params={"kb_id": killed.base})
        assert listed.json()["docs"] == []
        added(client, killed.base, ARTICLES)
        assert found(client, killed.base, "第7条的内容", mode="keyword")
        assert server.query("SELECT count(*) FROM rag_chunk") == [(300,)]


def test_a_living_process_ends_what_a_dead_one_left_without_being_asked(
    tmp_path: Path,
) -> None:
    embeddings = Embeddings()
    with (
        fake_provider.running() as provider,
        serving(tmp_path, provider) as server,
        server.signed_in() as client,
    ):
        provider.routes["/embeddings"] = embeddings
        killed = Upload(server, client, embeddings)
        killed.is_killed(killed.stops_when_a_part_is_stored())

        server.start()
        server.wait_until_ready()

        # At the start its lease has not run out yet: who knows that it is dead?
        server.wait_for(lambda: documents(server)[0][0] == "failed")
        assert server.query("SELECT count(*) FROM rag_chunk") == [(0,)]
