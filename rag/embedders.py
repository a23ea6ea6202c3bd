"""Texts -> unit vectors, by an embedding model behind a provider."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import httpx2
import numpy as np
from django.db import connection
from numpy.typing import NDArray

from llmbackend import metrics
from llmbackend.chat_models import LOCAL
from llmbackend.config import Config
from llmbackend.connected import Providers
from llmbackend.errors import ProviderError, ProviderProtocol, ProviderTimeout
from llmbackend.providers import (
    FAILURES,
    Connection,
    authorization,
    may_be_retried,
    may_be_too_much,
    retry_after,
    translated,
)
from rag.embedding_models import EmbeddingModel, embedding_model

BATCH = 64
AT_ONCE = 4
# The embedded model's process has one thread for passages and lets few wait for it.
LOCAL_BATCH = 16
LOCAL_AT_ONCE = 2
LONGEST_PAUSE = 20.0

Kind = Literal["query", "passage"]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """
    How long a provider is waited for, in seconds.

    `request` is for one request; after a failure there are `retries` more, each after
    a pause of twice the last. `question` is for all of that while someone waits.
    """

    request: float = 120.0
    retries: int = 4
    first_pause: float = 0.5
    question: float = 30.0


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who embeds, what kind of text, and until when somebody waits for it."""

    connection: Connection
    kind: Kind
    until: float | None


class RemoteEmbedder:
    """A model behind an OpenAI-compatible `/embeddings`, the embedded e5 included."""

    def __init__(
        self,
        model: EmbeddingModel,
        providers: Providers,
        *,
        patience: Patience,
        largest: dict[str, int] | None = None,
    ) -> None:
        """`largest` is where it learns how many texts at once each model takes."""
        self._model = model
        self._providers = providers
        self._patience = patience
        self._largest = {} if largest is None else largest

    async def embed(
        self, texts: Sequence[str], *, kind: Kind, until: float | None = None
    ) -> Matrix:
        """
        In batches, a few at a time, each tried again while that may help.

        `until` is when, by the event loop's clock, nobody waits for it any longer.
        """
        connection = await self._providers.connect(self._model.provider)
        asking = _Asking(connection, kind, until)
        local = self._model.provider == LOCAL.name
        size, at_once = (LOCAL_BATCH, LOCAL_AT_ONCE) if local else (BATCH, AT_ONCE)
        gate = asyncio.Semaphore(at_once)

        async def batch(start: int) -> list[Matrix]:
            async with gate:
                part = texts[start : start + size]
                return await self._batch(part, asking)

        starts = range(0, len(texts), size)
        tasks = [asyncio.create_task(batch(start)) for start in starts]
        try:
            parts = list(chain.from_iterable(await asyncio.gather(*tasks)))
        finally:
            for task in tasks:
                task.cancel()
        if len({part.shape[1] for part in parts}) > 1:
            raise ProviderProtocol
        return np.concatenate(parts)

    async def _batch(self, texts: Sequence[str], asking: _Asking) -> list[Matrix]:
        if len(texts) > self._largest.get(self._model.name, BATCH):
            return await self._halves(texts, asking)
        retries = 0
        while True:
            try:
                answer = await self._ask(texts, asking)
                return [await asyncio.to_thread(rows_of, answer, len(texts))]
            except FAILURES as exc:
                if len(texts) > 1 and may_be_too_much(exc):
                    break
                pause = max(
                    retry_after(exc) or 0.0, self._patience.first_pause * 2**retries
                )
                is_last = retries >= self._patience.retries or _ends(
                    asking.until, pause
                )
                if is_last or not may_be_retried(exc):
                    raise translated(
                        exc,
                        provider=self._model.provider,
                        api_key=asking.connection.api_key,
                    ) from None
                metrics.provider_retried(self._model.provider, call="embedding")
                await asyncio.sleep(min(pause, LONGEST_PAUSE) * random.uniform(0.7, 1))  # noqa: S311
                retries += 1
        parts = await self._halves(texts, asking)
        # Only now is it known that no single text was what was refused.
        self._largest[self._model.name] = max(len(part) for part in parts)
        return parts

    async def _halves(self, texts: Sequence[str], asking: _Asking) -> list[Matrix]:
        """Many providers take 10, 16 or 32 texts at once, and say so as they like."""
        middle = (len(texts) + 1) // 2
        first = await self._batch(texts[:middle], asking)
        second = await self._batch(texts[middle:], asking)
        return [*first, *second]

    async def _ask(self, texts: Sequence[str], asking: _Asking) -> bytes:
        body: dict[str, Any] = {
            "model": self._model.upstream_name,
            "input": list(texts),
            "encoding_format": "base64",
        }
        if self._model.provider == LOCAL.name:
            body["input_type"] = asking.kind
        connection = asking.connection
        answer = await connection.client.post(
            "/embeddings",
            cast_to=httpx2.Response,
            body=body,
            options={
                "headers": authorization(connection.api_key),
                "max_retries": 0,
                "follow_redirects": False,
                "timeout": httpx2.Timeout(self._patience.request, connect=10.0),
            },
        )
        return answer.content


def _ends(until: float | None, pause: float) -> bool:
    """Whether `until` comes before the end of a pause that begins now."""
    return until is not None and asyncio.get_running_loop().time() + pause > until


def rows_of(answer: bytes, count: int) -> Matrix:
    """
    The vectors of an embeddings answer in the order of its inputs, unit length.

    Raises ProviderProtocol for an answer that is no JSON, short, of several dimensions,
    or holds what is no finite number.
    """
    try:
        items = sorted(json.loads(answer)["data"], key=lambda item: item["index"])
        if [item["index"] for item in items] != list(range(count)):
            raise ProviderProtocol
        rows = np.stack([vector_of(item["embedding"]) for item in items])
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise ProviderProtocol from exc
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    if not np.isfinite(largest).all() or not largest.all():
        raise ProviderProtocol
    rows /= largest  # Their squares can neither overflow nor vanish.
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def vector_of(embedding: Any) -> NDArray[np.float64]:
    """
    One vector: base64 of little-endian float32, or a list of numbers.

    Raises ValueError or TypeError for anything else.
    """
    if isinstance(embedding, str):
        packed = base64.b64decode(embedding, validate=True)
        return np.frombuffer(packed, "<f4").astype(np.float64)
    vector = np.array(embedding)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise ValueError("a vector is a list of numbers")
    return vector.astype(np.float64)


class Embedding:
    """
    Embeds for a serving process: awaited on its event loop, or from a thread.

    `local-ngram` is not embedded here: its vectors are made where the texts are.
    """

    def __init__(self, providers: Providers, *, config: Config) -> None:
        self.patience = Patience()
        self._providers = providers
        self._config = config
        self._largest: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call on the event loop that the providers' clients belong to."""
        self._loop = asyncio.get_running_loop()

    async def embed(self, model: str, texts: Sequence[str], *, kind: Kind) -> Matrix:
        """
        float32 of shape (len(texts), dimension), unit rows.

        Raises UnknownEmbeddingModel and ProviderErrors.
        """
        found = embedding_model(model, config=self._config)
        try:
            return await self._embedded(found, texts, kind)
        except ProviderError as error:
            metrics.provider_failed(found.provider, call="embedding", code=error.code)
            raise

    async def _embedded(
        self, found: EmbeddingModel, texts: Sequence[str], kind: Kind
    ) -> Matrix:
        embedder = RemoteEmbedder(
            found, self._providers, patience=self.patience, largest=self._largest
        )
        try:
            async with asyncio.timeout(
                self.patience.question if kind == "query" else None
            ) as limit:
                return await embedder.embed(texts, kind=kind, until=limit.when())
        except TimeoutError:
            raise ProviderTimeout from None

    def from_thread(
        self,
        model: str,
        texts: Sequence[str],
        *,
        kind: Kind,
        waiting: Callable[[], None] = lambda: None,
    ) -> Matrix:
        """
        The same on a thread that may block; calls `waiting` every second meanwhile.

        The thread's database connection is given back first.
        """
        if self._loop is None:
            raise RuntimeError("start() has not been called.")
        connection.close()
        work = self.embed(model, texts, kind=kind)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not wait([future], timeout=1).done:
                waiting()
            return future.result()
        finally:
            future.cancel()
