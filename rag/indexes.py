"""The search indexes of knowledge bases, kept in memory by version."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from django.db.models import QuerySet
from numpy.typing import NDArray

from llmbackend import metrics
from llmbackend.prepared import Select, given
from rag.bias import Bias, bias_of
from rag.dense import DenseIndex
from rag.embedding_models import LOCAL_NGRAM
from rag.keyword import KeywordBuilder, KeywordIndex
from rag.models import Chunk, Document, KnowledgeBase
from rag.ngrams import idf_of, query_vector
from rag.sorting import Keys
from rag.terms import Ids

# Chunks read at once: what they have stays in a core's cache until it is used.
ROWS_AT_ONCE = 200
TRIES = 3

Vector = NDArray[np.float32]
ChunkIds = NDArray[np.int64]
Stored = bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """
    A knowledge base as a search needs it; no ORM object.

    `chunk_tokens` is about how many a chunk has at most.
    """

    id: uuid.UUID
    embedding_model: str
    dimension: int | None
    version: int
    chunk_tokens: int

    @property
    def is_embedded_elsewhere(self) -> bool:
        """Whether a provider makes the vectors: the n-gram model needs none."""
        return self.embedding_model != LOCAL_NGRAM and self.dimension is not None

    @classmethod
    def of(cls, base: KnowledgeBase) -> Base:
        return cls(
            id=base.pk,
            embedding_model=base.embedding_model,
            dimension=base.dimension,
            version=base.version,
            chunk_tokens=max(base.chunk_size_cjk, base.chunk_size_latin * 3 // 10),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as it is searched for; `vector` is None where no provider makes it."""

    text: str
    terms: Ids
    vector: Vector | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """
    How near each chunk of a base is to a question; row i is the chunk `ids[i]`.

    `terms` are the question's. `dense` is cosines, None without a vector; `keyword` is
    BM25, 0 without a term in common. `index` knows of the question's terms, perhaps of
    no others. `bias` is None for n-grams.
    """

    ids: NDArray[np.int64]
    terms: Ids
    dense: Vector | None
    keyword: Vector
    index: KeywordIndex
    bias: Bias | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """
    Both sides of one version of a base; row i of each is the chunk `ids[i]`.

    `idf`, for the n-gram embedder alone, is what weighs a question's n-grams; `bias` is
    for any other.
    """

    version: int
    ids: NDArray[np.int64]
    dense: DenseIndex
    keyword: KeywordIndex
    idf: NDArray[np.float32] | None
    bias: Bias | None

    @property
    def nbytes(self) -> int:
        bias = self.bias.nbytes if self.bias else 0
        return int(self.ids.nbytes + self.dense.nbytes + self.keyword.nbytes + bias)

    def scored(self, asked: Asked) -> Scored:
        """How near each chunk is to a question."""
        vector = asked.vector
        if self.idf is not None:
            vector = query_vector(asked.text, self.idf)
        return Scored(
            ids=self.ids,
            terms=asked.terms,
            dense=None if vector is None else self.dense.scores(vector),
            keyword=self.keyword.scores(asked.terms),
            index=self.keyword,
            bias=self.bias,
        )


class Indexes:
    """
    The indexes of a process, under one memory budget; the least recently used go.

    Any number of threads may ask; an index is built once when many ask at once.
    """

    def __init__(self, *, budget: int) -> None:
        """`budget` in bytes."""
        self._budget = budget
        self._kept: OrderedDict[uuid.UUID, Index] = OrderedDict()
        self._too_large: dict[uuid.UUID, int] = {}
        self._building: dict[uuid.UUID, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, base: Base) -> Index | None:
        """The index of `base`; None when it would not fit into the whole budget."""
        if (found := self._find(base)) is not None:
            return found
        with self._lock:
            building = self._building.setdefault(base.id, threading.Lock())
        with building:
            if (found := self._find(base)) is not None:
                return found
            if self._too_large.get(base.id, -1) >= base.version:
                return None
            built = self._built(base)
            if built is None:
                self._note_too_large(base)
            else:
                self._keep(base.id, built)
            return built

    @property
    def nbytes(self) -> int:
        """The memory of all that is kept."""
        with self._lock:
            return sum(index.nbytes for index in self._kept.values())

    def _find(self, base: Base) -> Index | None:
        with self._lock:
            found = self._kept.get(base.id)
            # A newer one than asked for is right, too: what it lacks was deleted.
            if found is None or found.version < base.version:
                return None
            self._kept.move_to_end(base.id)
            return found

    def _keep(self, base_id: uuid.UUID, index: Index) -> None:
        with self._lock:
            self._kept[base_id] = index
            self._kept.move_to_end(base_id)
            while sum(kept.nbytes for kept in self._kept.values()) > self._budget:
                gone, _ = self._kept.popitem(last=False)
                self._building.pop(gone, None)
            self._tell_size()

    def _note_too_large(self, base: Base) -> None:
        """Do not try again before the base changes."""
        with self._lock:
            self._too_large[base.id] = base.version
            self._kept.pop(base.id, None)
            self._tell_size()

    def _tell_size(self) -> None:
        metrics.index_memory(sum(kept.nbytes for kept in self._kept.values()))

    def _built(self, base: Base) -> Index | None:
        """Built again when the base changed meanwhile: rows of one version only."""
        for _ in range(TRIES):
            before = version_of(base.id)
            index = self._read(base, before)
            if version_of(base.id) == before:
                return index
        return index

    def _read(self, base: Base, version: int) -> Index | None:
        ids, dimension = ids_of(base.id), base.dimension or 0
        if len(ids) * dimension * 4 > self._budget:
            return None
        dense = DenseIndex(size=len(ids), dimension=dimension)
        if (keywords := self._keywords(ids, dense)) is None:
            return None
        deleted = bytes(4 * dimension)
        for vectors in stored(VECTORS, ids):
            dense.fill([vector or deleted for vector in vectors])
        ngram = base.embedding_model == LOCAL_NGRAM
        index = Index(
            version=version,
            ids=ids,
            dense=dense,
            keyword=keywords,
            idf=idf_of(dense.matrix) if ngram else None,
            bias=None if ngram else bias_of(dense, keywords.unspaced),
        )
        return index if index.nbytes <= self._budget else None

    def _keywords(self, ids: ChunkIds, dense: DenseIndex) -> KeywordIndex | None:
        """Those of a base; None when they would not fit in beside its vectors."""
        # They are sorted where the vectors come to be: no more memory is touched than
        # the index keeps. To get it of the system takes its time, another thread's.
        with ThreadPoolExecutor(1) as other:
            keyword = KeywordBuilder(rooms=other.map(_touched, dense.rooms))
            for terms in stored(TERMS, ids):
                keyword.add(terms)
                if dense.nbytes + keyword.postings * 4 > self._budget:
                    return None
            return keyword.finish()


def _touched(room: Keys) -> Keys:
    room.fill(0)
    return room


def version_of(base_id: uuid.UUID) -> int:
    """A base's version now; -1 when it has gone."""
    bases = KnowledgeBase.objects.filter(pk=base_id)
    version = bases.values_list("version", flat=True).first()
    return -1 if version is None else version


def ready_chunks(base_id: uuid.UUID) -> QuerySet[Chunk]:
    """The chunks retrieval may see: those of ready documents."""
    return Chunk.objects.filter(
        document__knowledge_base=base_id, document__status=Document.Status.READY
    )


def ids_of(base_id: uuid.UUID) -> ChunkIds:
    """The ids of a base's ready chunks, ascending, in one statement."""
    ids = ready_chunks(base_id).order_by("pk").values_list("pk", flat=True)
    return np.fromiter(ids.iterator(), np.int64)


_PLACES = [f"id{n}" for n in range(ROWS_AT_ONCE)]


def _column(name: str) -> Select:
    """A column of ROWS_AT_ONCE chunks, by their ids."""

    def build() -> QuerySet[Chunk, Any]:
        ids = [given(Chunk, "id", place) for place in _PLACES]
        chunks = Chunk.objects.filter(pk__in=ids)  # type: ignore[misc]
        return chunks.values_list("pk", name)

    return Select(build)


TERMS, VECTORS = _column("terms"), _column("embedding")


def stored(column: Select, ids: ChunkIds) -> Iterator[list[Stored]]:
    """
    A column of each chunk in the order of the ids, some chunks at a time.

    That of a chunk deleted since is empty.
    """
    # By their ids: asked for the next of a base, SQLite sorts all that is left of it.
    for start in range(0, len(ids), ROWS_AT_ONCE):
        asked = ids[start : start + ROWS_AT_ONCE].tolist()
        # The statement takes no fewer: the last one stands where there are none left.
        places = zip_longest(_PLACES, asked, fillvalue=asked[-1])
        found: dict[int, Stored] = dict(column.rows(**dict(places)))
        yield [found.get(pk, b"") for pk in asked]
