"""Embedding models: which there are, and what their providers may answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from django.conf import settings as django_settings

from llmbackend.config import Provider
from llmbackend.connected import Providers
from llmbackend.errors import (
    LLMBackendError,
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderTimeout,
    UnknownEmbeddingModel,
)
from rag.embedders import Embedding, Patience, RemoteEmbedder, rows_of
from rag.embedding_models import EmbeddingModel, embedding_model, embedding_models
from tests.fake_provider import JSON, FakeProvider, Script, refusal
from tests.rag.embeddings import Embeddings, answer, encoded, item, vector_of

QUICK = Patience(request=1.5, retries=2, first_pause=0.01, question=1.8)
MODEL = EmbeddingModel(name="fake-embedding", provider="fake", upstream_name="embed-3")
ZHIPU = Provider(
    name="zhipu",
    base_url="http://127.0.0.1:9/v1",
    api_key="sk-zhipu",
    embedding_models={"zhipu-embedding-3": "embedding-3"},
)
KEYLESS = replace(ZHIPU, api_key="")


def config(*providers: Provider, default: str = "auto", local: bool = False) -> Any:
    base = django_settings.CONFIG
    return replace(
        base,
        providers=providers,
        rag=replace(base.rag, default_embedding_model=default),
        local=replace(base.local, enabled=local),
    )


class TestWhichThereAre:
    def test_those_of_providers_with_a_key_and_the_embedded(self) -> None:
        names = [model.name for model in embedding_models(config(ZHIPU))]

        assert names == ["zhipu-embedding-3", "local-ngram"]

    def test_without_a_key_only_the_embedded(self) -> None:
        names = [model.name for model in embedding_models(config(KEYLESS))]

        assert names == ["local-ngram"]

    @pytest.mark.parametrize(
        ("made", "name"),
        [
            (config(ZHIPU), "zhipu-embedding-3"),
            (config(KEYLESS), "local-ngram"),
            (config(ZHIPU, default="local-ngram"), "local-ngram"),
        ],
    )
    def test_the_default_is_the_best_that_works(self, made: Any, name: str) -> None:
        assert embedding_model("", config=made).name == name

    @pytest.mark.parametrize("name", ["zhipu-embedding-3", "local-e5", "auto"])
    def test_what_does_not_work_is_refused(self, name: str) -> None:
        with pytest.raises(UnknownEmbeddingModel, match=name):
            embedding_model(name, config=config(KEYLESS))

    def test_a_default_that_does_not_work_is_refused(self) -> None:
        with pytest.raises(UnknownEmbeddingModel, match="local-e5"):
            embedding_model("", config=config(default="local-e5"))


def body(*data: Any) -> bytes:
    return json.dumps({"data": data}).encode()


class TestAnAnswer:
    def test_is_put_in_the_order_of_its_inputs(self) -> None:
        rows = rows_of(body(item(2, "c"), item(0, "a"), item(1, "b")), 3)

        expected = np.stack([vector_of(text) for text in "abc"])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, rtol=1e-6)

    def test_may_be_lists_of_numbers(self) -> None:
        rows = rows_of(body({"index": 0, "embedding": [0, 3, 4.0]}), 1)

        np.testing.assert_allclose(rows, [[0, 0.6, 0.8]], rtol=1e-6)

    def test_may_hold_numbers_of_any_size(self) -> None:
        rows = rows_of(body({"index": 0, "embedding": [3e200, 4e-200]}), 1)

        np.testing.assert_allclose(rows, [[1, 0]])

    @pytest.mark.parametrize(
        "data",
        [
            [],
            [item(0, "a")],
            [item(0, "a"), item(0, "b")],
            [item(0, "a"), item(2, "b")],
            [item(0, "a"), item(1, "b"), item(2, "c")],
            [item(0, "a"), item(1, "b", dimension=63)],
            [item(0, "a"), {"embedding": encoded(vector_of("b"))}],
            [item(0, "a"), {"index": "1", "embedding": encoded(vector_of("b"))}],
            [item(0, "a"), {"index": None, "embedding": encoded(vector_of("b"))}],
            [item(0, "a"), {"index": 1}],
            [item(0, "a"), {"index": 1, "embedding": None}],
            [item(0, "a"), {"index": 1, "embedding": 7}],
            [item(0, "a"), {"index": 1, "embedding": {"0": 1}}],
            [item(0, "a"), {"index": 1, "embedding": [[1.0] * 64]}],
            [item(0, "a"), {"index": 1, "embedding": ["0.5"] * 64}],
            [item(0, "a"), {"index": 1, "embedding": [None] * 64}],
            [item(0, "a"), {"index": 1, "embedding": [True] * 64}],
            [item(0, "a"), {"index": 1, "embedding": [0.0] * 64}],
            [item(0, "a"), {"index": 1, "embedding": [float("nan")] * 64}],
            [item(0, "a"), {"index": 1, "embedding": [float("inf")] * 64}],
            [item(0, "a"), {"index": 1, "embedding": "not base64!"}],
            [item(0, "a"), {"index": 1, "embedding": "AAAA"}],
            [item(0, "a"), {"index": 1, "embedding": encoded(np.zeros(64))}],
            [item(0, "a"), {"index": 1, "embedding": encoded(np.full(64, np.nan))}],
            [{"index": 0, "embedding": ""}, {"index": 1, "embedding": ""}],
            [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
            ["a", "b"],
            [None, None],
        ],
    )
    def test_that_is_no_two_vectors_is_refused(self, data: list[Any]) -> None:
        with pytest.raises(ProviderProtocol):
            rows_of(body(*data), 2)

    @pytest.mark.parametrize(
        "raw",
        [
            *[b"", b"{", b"\xff", b"null", b"[]", b"7", b"{}", b'{"data": null}'],
            *[b'{"data": {}}', b'{"data": "x"}', b"[" * 100_000, b"<html>"],
        ],
    )
    def test_that_is_something_else_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ProviderProtocol):
            rows_of(raw, 1)


@pytest_asyncio.fixture
async def providers(provider: FakeProvider) -> AsyncIterator[Providers]:
    providers = Providers(django_settings.CONFIG)
    yield providers
    await providers.aclose()


@pytest.fixture
def embedder(providers: Providers) -> RemoteEmbedder:
    return RemoteEmbedder(MODEL, providers, patience=QUICK)


class TestARequest:
    async def test_asks_for_base64_by_the_providers_name_with_its_key(
        self, embedder: RemoteEmbedder, embeddings: Embeddings
    ) -> None:
        await embedder.embed(["什么是不可抗力?"], kind="query")

        assert embeddings.requests == [
            {
                "model": "embed-3",
                "input": ["什么是不可抗力?"],
                "encoding_format": "base64",
            }
        ]
        assert embeddings.keys == ["sk-configured-key"]

    async def test_many_texts_go_in_batches_and_come_back_in_order(
        self, embedder: RemoteEmbedder, embeddings: Embeddings
    ) -> None:
        texts = [f"text number {n}" for n in range(150)]

        rows = await embedder.embed(texts, kind="passage")

        assert sorted(len(r["input"]) for r in embeddings.requests) == [22, 64, 64]
        expected = np.stack([vector_of(text) for text in texts])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, rtol=1e-5)

    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_a_provider_may_take_fewer_texts_at_once(
        self, providers: Providers, embeddings: Embeddings, status: int
    ) -> None:
        def refused(_number: int) -> Script | None:
            many = len(embeddings.requests[-1]["input"]) > 10
            return refusal(status) if many else None

        embeddings.before = refused
        embedding = Embedding(providers, config=django_settings.CONFIG)
        texts = [f"text number {n}" for n in range(128)]

        rows = await embedding.embed("fake-embedding", texts, kind="passage")

        expected = np.stack([vector_of(text) for text in texts])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, rtol=1e-5)
        # From now on none is refused, and none is smaller than it has to be.
        for _ in range(3):
            embeddings.requests.clear()
            await embedding.embed("fake-embedding", texts, kind="passage")
            sizes = [len(request["input"]) for request in embeddings.requests]
            assert (sum(sizes), max(sizes)) == (128, 8)

    async def test_one_text_that_is_refused_makes_no_batch_smaller(
        self, providers: Providers, embeddings: Embeddings
    ) -> None:
        embeddings.before = lambda number: (
            refusal(400) if "bad" in embeddings.requests[-1]["input"] else None
        )
        embedding = Embedding(providers, config=django_settings.CONFIG)

        with pytest.raises(ProviderError):
            await embedding.embed(
                "fake-embedding", ["x"] * 60 + ["bad"], kind="passage"
            )

        embeddings.requests.clear()
        await embedding.embed("fake-embedding", ["x"] * 64, kind="passage")
        assert len(embeddings.requests) == 1

    async def test_at_most_four_are_made_at_once(
        self,
        providers: Providers,
        embeddings: Embeddings,
        provider: FakeProvider,
    ) -> None:
        stalled = Script(stall_at_headers=True)
        embeddings.before = lambda number: stalled
        texts = [str(n) for n in range(64 * 6)]

        embedder = RemoteEmbedder(MODEL, providers, patience=Patience())
        work = asyncio.create_task(embedder.embed(texts, kind="passage"))
        await provider.until(lambda: len(embeddings.requests) >= 4)
        await asyncio.sleep(0.1)

        assert len(embeddings.requests) == 4
        work.cancel()
        await asyncio.wait([work])

    async def test_batches_of_different_sizes_are_refused(
        self, embedder: RemoteEmbedder, embeddings: Embeddings
    ) -> None:
        def shrink(number: int) -> None:
            embeddings.dimension = 64 - number

        embeddings.before = shrink

        with pytest.raises(ProviderProtocol):
            await embedder.embed(["x"] * 65, kind="passage")


class TestAFailure:
    @pytest.mark.parametrize(
        ("script", "kind", "asked"),
        [
            (refusal(401), ProviderAuth, 1),
            (refusal(403), ProviderAuth, 1),
            (refusal(400), ProviderError, 1),
            (refusal(404), ProviderError, 1),
            (refusal(429, {"code": "insufficient_quota"}), ProviderBusy, 1),
            (refusal(429), ProviderBusy, 3),
            (refusal(408), ProviderError, 3),
            (refusal(500), ProviderError, 3),
            (refusal(503), ProviderError, 3),
            (Script(body=b"{", headers=JSON, cut="rst"), ProviderError, 3),
            (Script(status=302, headers={"Location": "/"}), ProviderError, 1),
            (answer([item(0, "a"), item(1, "b")]), ProviderProtocol, 1),
        ],
    )
    async def test_is_tried_again_when_that_may_help(
        self,
        embedder: RemoteEmbedder,
        embeddings: Embeddings,
        script: Script,
        kind: type[LLMBackendError],
        asked: int,
    ) -> None:
        embeddings.before = lambda number: script

        with pytest.raises(LLMBackendError) as raised:
            await embedder.embed(["x"], kind="passage")

        assert type(raised.value) is kind
        assert len(embeddings.requests) == asked

    async def test_silence_is_one_too(
        self, embedder: RemoteEmbedder, embeddings: Embeddings
    ) -> None:
        embeddings.before = lambda number: Script(stall_at_headers=True)

        with pytest.raises(ProviderTimeout):
            await embedder.embed(["x"], kind="passage")

        assert len(embeddings.requests) == 3

    async def test_that_passes_is_not_noticed(
        self, embedder: RemoteEmbedder, embeddings: Embeddings
    ) -> None:
        embeddings.scripts = [refusal(500), refusal(429)]

        rows = await embedder.embed(["x"], kind="passage")

        assert rows.shape == (1, 64)

    async def test_of_one_batch_ends_the_others(
        self,
        embedder: RemoteEmbedder,
        embeddings: Embeddings,
        provider: FakeProvider,
    ) -> None:
        stalled = Script(stall_at_headers=True)
        embeddings.before = lambda n: refusal(401) if n == 2 else stalled

        with pytest.raises(ProviderAuth):
            await embedder.embed(["x"] * 65, kind="passage")

        assert await provider.until(lambda: provider.answering == 0)

    async def test_a_question_is_not_waited_for_as_long(
        self, providers: Providers, embeddings: Embeddings
    ) -> None:
        embedding = Embedding(providers, config=django_settings.CONFIG)
        embedding.patience = Patience(question=0.1)
        embeddings.before = lambda number: Script(stall_at_headers=True)

        with pytest.raises(ProviderTimeout):
            await embedding.embed("fake-embedding", ["x"], kind="query")
