"""A server on PostgreSQL, and sessions that get in its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import psycopg
import pytest

from tests import fake_provider, postgresql_server, served, tcp_proxy
from tests.chat.eventually import eventually
from tests.fake_provider import FakeProvider
from tests.patience import PATIENCE
from tests.postgresql.wire import Wire
from tests.postgresql_server import PostgreSQLServer
from tests.rag.embeddings import Embeddings
from tests.served import ServeProcess

# Waits wherever it stands, for as long as a gate is closed.
GATE = """
    CREATE OR REPLACE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$
"""
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Session:
    """A session beside the server's, on its database; every statement commits."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def rows(self, statement: str, *values: Any) -> list[Any]:
        cursor = self._connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def gate(self, where: str) -> Iterator[None]:
        """Statements wait `where` a trigger stands, until the block ends."""
        self.rows(GATE)
        self.rows("SELECT pg_advisory_lock(1)")
        self.rows(f"CREATE TRIGGER gate {where} EXECUTE FUNCTION gate()")
        try:
            yield
        finally:
            self.rows("SELECT pg_advisory_unlock(1)")
            self.rows("DROP FUNCTION gate CASCADE")

    def until(self, statement: str) -> None:
        """Return when a statement finds something."""
        assert eventually(lambda: self.rows(statement), PATIENCE)

    def until_waiting(self, count: int) -> None:
        """Return when so many of the server's sessions wait for another's."""
        assert eventually(lambda: self.waiting == count, PATIENCE)

    @property
    def waiting(self) -> int:
        """How many of the server's sessions wait for another's lock."""
        return int(self.rows(WAITING)[0][0])


@dataclass
class Here:
    """A server with its database, the wire between them, and who embeds."""

    server: ServeProcess
    wire: Wire
    session: Session
    provider: FakeProvider
    embeddings: Embeddings
    alice: httpx2.Client


@pytest.fixture(scope="module")
def running(
    postgresql: PostgreSQLServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Here]:
    directory = tmp_path_factory.mktemp("postgresql")
    proxy = Wire(postgresql.port)
    with fake_provider.running() as provider, tcp_proxy.running(proxy) as between:
        [section] = served.fake_section(provider.base_url)
        section["embedding_models"] = {"fake-embedding": "embed-3"}
        config = postgresql_server.config_for(directory, server=postgresql)
        straight = config["database"]["url"]
        through = straight.replace(f"127.0.0.1:{postgresql.port}", between.address)
        config["database"] = {"url": through}
        with served.serving(directory, providers=[section], **config) as server:
            session = Session(straight)
            with server.signed_in() as alice:
                yield Here(server, between, session, provider, Embeddings(), alice)
            session.close()


@pytest.fixture
def here(running: Here) -> Here:
    """The module's server, with a provider that embeds."""
    running.embeddings = Embeddings()
    running.provider.routes["/embeddings"] = running.embeddings
    return running
