"""Knowledge bases of Alice's, and a provider that embeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag.embedders import Patience
from tests.conftest import Client, Served
from tests.fake_provider import FakeProvider
from tests.rag.embeddings import Embeddings, make_base


@pytest.fixture
def base(as_alice: Client) -> str:
    """An empty base that needs no provider."""
    return make_base(as_alice)


@pytest.fixture
def embeddings(provider: FakeProvider) -> Embeddings:
    """The provider's answers to `/embeddings`."""
    embeddings = Embeddings()
    provider.routes["/embeddings"] = embeddings
    return embeddings


@pytest.fixture
def remote_base(as_alice: Client, embeddings: Embeddings) -> str:
    """An empty base that the provider embeds."""
    return make_base(as_alice, embedding_model="fake-embedding")


@pytest.fixture
def impatient(server: Served) -> Iterator[None]:
    """The server gives a provider up within a second."""
    embedding = server.application.knowledge.embedding
    before = embedding.patience
    embedding.patience = Patience(
        request=0.4, retries=2, first_pause=0.01, question=0.8
    )
    yield
    embedding.patience = before
