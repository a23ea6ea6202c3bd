"""Embeddings as OpenAI's API has them, computed by E5 in this process."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llmbackend.local.e5 import E5
from llmbackend.local.e5_weights import Floats
from llmbackend.local.refusals import BadRequest, Refused, request_for
from llmbackend.local.weights import DamagedWeights, Weights, verify

MAX_TEXTS = 256
WAITING_PASSAGES = 16
_WAITING_QUERIES = 64
# A group is some tenths of a second's work; half a second for characters that are a
# token each.
_GROUP_CHARACTERS = 600
_RETRY_AFTER = {"query": 1, "passage": 20}

Kind = Literal["query", "passage"]
Row = str | list[float]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A checked request."""

    texts: list[str]
    kind: Kind
    as_base64: bool


def parse_ask(raw: bytes, *, model: str) -> Ask:
    """
    Check an OpenAI request for `model`; raise BadRequest.

    Beside OpenAI's fields there is `input_type`: "query", or "passage" unless given.
    """
    data = request_for(model, raw)
    return Ask(
        texts=_texts(data.get("input")),
        kind=_kind(data.get("input_type")),
        as_base64=_is_base64(data.get("encoding_format")),
    )


def _kind(given: object) -> Kind:
    if given == "query":
        return "query"
    if given in (None, "passage"):
        return "passage"
    raise BadRequest("input_type must be query or passage.")


def _is_base64(given: object) -> bool:
    if given not in (None, "float", "base64"):
        raise BadRequest("encoding_format must be float or base64.")
    return given == "base64"


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS:
        raise BadRequest(f"input must be a string or a list of 1 to {MAX_TEXTS}.")
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("input must hold strings and nothing else.")
    return texts


def groups(texts: list[str]) -> Iterator[list[str]]:
    """
    What to compute in one go: neighbours, together at most _GROUP_CHARACTERS long.

    >>> [len(group) for group in groups(["x" * 250] * 3 + ["x" * 9000] + ["x"] * 50)]
    [2, 1, 1, 50]
    """
    group: list[str] = []
    room = _GROUP_CHARACTERS
    for text in texts:
        if group and len(text) > room:
            yield group
            group, room = [], _GROUP_CHARACTERS
        group.append(text)
        room -= len(text)
    if group:
        yield group


class Embeddings:
    """
    The embedding model, loaded at its first use.

    Queries and passages have a thread each: a query never waits for a batch.
    """

    def __init__(self, weights: Weights) -> None:
        self.model = weights.name
        self._weights = weights
        self._e5: E5 | None = None
        self._loading = threading.Lock()
        self._lanes: dict[Kind, _Lane] = {
            "query": _Lane("query", room=1 + _WAITING_QUERIES),
            "passage": _Lane("passage", room=1 + WAITING_PASSAGES),
        }

    def asks(self) -> int:
        """How many requests are at work or wait."""
        return sum(lane.inside for lane in self._lanes.values())

    async def answer(self, raw: bytes) -> dict[str, Any]:
        """The answer to a request's body; raises Refused. Cancelled, the work ends."""
        ask = parse_ask(raw, model=self.model)
        rows: list[Row] = []
        lane = self._lanes[ask.kind]
        async with lane.turn():
            for group in groups(ask.texts):
                # Here it is that a client that hung up ends its work.
                rows += await lane.run(partial(self._rows, group, ask))
        return _answer(rows, model=self.model)

    def _rows(self, texts: list[str], ask: Ask) -> list[Row]:
        try:
            embeddings = self._loaded().embed(texts, kind=ask.kind)
        except (DamagedWeights, OSError) as error:
            raise Refused(500, "damaged_weights", str(error)) from error
        return _encoded(embeddings, as_base64=ask.as_base64)

    def _loaded(self) -> E5:
        with self._loading:
            if self._e5 is None:
                verify(self._weights)
                self._e5 = E5(Path(self._weights.path))
            return self._e5


def _encoded(embeddings: Floats, *, as_base64: bool) -> list[Row]:
    if not as_base64:
        return list(embeddings.tolist())
    little_endian = embeddings.astype("<f4", copy=False)
    return [base64.b64encode(row.tobytes()).decode() for row in little_endian]


def _answer(rows: list[Row], *, model: str) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": row}
        for index, row in enumerate(rows)
    ]
    # Nobody pays for these tokens, so nobody counts them.
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "data": data, "model": model, "usage": usage}


class _Lane:
    """A thread, and the requests for it: one at a time, in turn, at most `room`."""

    def __init__(self, name: Kind, *, room: int) -> None:
        self.inside = 0
        self._name = name
        self._room = room
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The thread is the block's, after those that came before; raises Refused."""
        if self.inside >= self._room:
            message = f"Too many {self._name} requests are waiting."
            raise Refused(503, "busy", message, retry_after=_RETRY_AFTER[self._name])
        self.inside += 1
        try:
            async with self._turn:
                yield
        finally:
            self.inside -= 1

    async def run(self, work: Callable[[], list[Row]]) -> list[Row]:
        """Done on the thread. Cancelled, the work begun goes on there."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
