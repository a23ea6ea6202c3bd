"""A question -> the passages of one knowledge base that may answer it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from accounts.grants import KB_READ
from accounts.models import User
from llmbackend.config import Config
from llmbackend.connected import Providers
from llmbackend.errors import DimensionChanged
from rag.embedders import Embedding
from rag.embedding_models import LOCAL_NGRAM
from rag.followups import Reading, readings
from rag.fusion import Mode, Ranked, blended, fused, keyword_weight
from rag.indexes import Asked, Base, Indexes, Scored
from rag.keyword import KeywordIndex
from rag.models import Chunk, Document, KnowledgeBase
from rag.passages import Passage, joined, shown
from rag.quoting import Quote, best_sentences
from rag.relevance import is_relevant
from rag.scanning import scanned
from rag.scripts import is_spaced
from rag.terms import question_terms, terms_of

FETCHED_AT_ONCE = 20
# Of a question as it is embedded, in characters: as long as a chunk of Chinese may be.
# Embedding models refuse what is too long for them.
LONGEST_EMBEDDED = 2_000

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """
    Passages, best first; `relevant` is whether they seem to be about the question.

    `question` is what they are judged by, and `index` knows how rare its terms are;
    None when the base has nothing.
    """

    question: str
    passages: list[Passage]
    relevant: bool
    index: KeywordIndex | None

    def quotes(self, passages: Sequence[Passage], *, most: int = 2) -> list[Quote]:
        """At most `most` sentences of `passages` that answer best, best first."""
        if self.index is None:
            return []
        texts = [passage.content for passage in passages]
        return best_sentences(self.question, texts, idf=self.index.idf, most=most)


class Knowledge:
    """What a serving process embeds and searches with."""

    def __init__(self, providers: Providers, *, config: Config) -> None:
        self.embedding = Embedding(providers, config=config)
        self.indexes = Indexes(budget=config.rag.index_memory_mb << 20)

    async def vectors(
        self, base: Base, readings: Sequence[Reading]
    ) -> list[Vector | None]:
        """The readings as the base's model embeds them; None where no provider does."""
        if not base.is_embedded_elsewhere:
            return [None] * len(readings)
        texts = [embedded(reading.text) for reading in readings]
        return [*await self.embedding.embed(base.embedding_model, texts, kind="query")]

    def search(
        self,
        *,
        base: Base,
        readings: Sequence[Reading],
        vectors: Sequence[Vector | None],
        top_k: int,
        mode: Mode = "hybrid",
    ) -> Findings:
        """
        The best passages, judged by the first reading; `vectors` as above.

        Raises DimensionChanged when they are of another size than the base's.
        """
        question = readings[0].text
        nothing = Findings(question=question, passages=[], relevant=False, index=None)
        if base.dimension is None:
            return nothing
        scored = self._scored(base, readings, vectors)
        if not len(scored[0].ids):
            return nothing
        ranked = blended(
            [
                _ranked(base, reading, each, mode=mode)
                for reading, each in zip(readings, scored, strict=True)
            ],
            [reading.weight for reading in readings],
        )
        passages = shown(_fetched(base, scored[0].ids, ranked), top_k=top_k)
        index = scored[0].index
        relevant = is_relevant(
            question,
            passages,
            embedding_model=base.embedding_model,
            idf=index.idf,
            cosines=scored[0].dense,
        )
        return Findings(
            question=question, passages=passages, relevant=relevant, index=index
        )

    def _scored(
        self,
        base: Base,
        readings: Sequence[Reading],
        vectors: Sequence[Vector | None],
    ) -> list[Scored]:
        if any(v is not None and len(v) != base.dimension for v in vectors):
            raise DimensionChanged
        asked = [
            Asked(text=reading.text, terms=question_terms(reading.text), vector=vector)
            for reading, vector in zip(readings, vectors, strict=True)
        ]
        index = self.indexes.get(base)
        if index is None:
            return scanned(base, asked)
        return [index.scored(each) for each in asked]


def embedded(question: str) -> str:
    """What is embedded of a question: its beginning and its end, where it is long."""
    if len(question) <= LONGEST_EMBEDDED:
        return question
    half = LONGEST_EMBEDDED // 2
    return f"{question[: half - 1]}\n{question[-half:]}"


def base_of(*, user: User, knowledge_base_id: uuid.UUID) -> Base:
    """An owned base as a search needs it; raises NotFound and Forbidden."""
    user.grant.require(KB_READ)
    return Base.of(KnowledgeBase.objects.owned_by(user).fetch(knowledge_base_id))


def retrieve(
    *,
    owner: User,
    knowledge_base_id: uuid.UUID,
    question: str,
    top_k: int,
    mode: Mode,
    knowledge: Knowledge,
) -> list[Passage]:
    """
    The best passages of an owned base, on a thread that may block.

    Raises NotFound, and ProviderErrors of the embedding model.
    """
    base = base_of(user=owner, knowledge_base_id=knowledge_base_id)
    vector = None
    if base.is_embedded_elsewhere and mode != "keyword":
        vector = knowledge.embedding.from_thread(
            base.embedding_model, [embedded(question)], kind="query"
        )[0]
    found = knowledge.search(
        base=base,
        readings=readings(question, before=[]),
        vectors=[vector],
        top_k=top_k,
        mode=mode,
    )
    return found.passages


def texts_of(*, base: Base, chunk_ids: Sequence[Sequence[int]]) -> list[str]:
    """The texts of passages found before, by their chunks; empty for deleted ones."""
    unranked = Ranked(row=0, score=0.0, dense=0.0, keyword=0.0)
    texts = []
    for ids in chunk_ids:
        chunks = sorted(_chunks(base, list(ids)).values(), key=lambda c: c.start)
        parts = [_passage(chunk, unranked) for chunk in chunks]
        texts.append(reduce(joined, parts).content if parts else "")
    return texts


def _ranked(
    base: Base, reading: Reading, scored: Scored, *, mode: Mode
) -> list[Ranked]:
    weight = keyword_weight(
        mode,
        strong_embedder=base.embedding_model != LOCAL_NGRAM,
        known_share=scored.index.known_share(scored.terms),
    )
    dense = scored.dense
    if base.embedding_model == LOCAL_NGRAM and dense is not None:
        # N-grams meet by chance, too, and as often against each other as not.
        dense = dense.clip(0)
    if dense is None or not dense.any():
        # A question of no words has no direction: nothing is near it.
        return fused(np.zeros_like(scored.keyword), scored.keyword, weight=1)
    if mode != "hybrid" or scored.bias is None:
        return fused(dense, scored.keyword, weight=weight)
    nearness, stand_in = scored.bias.corrected(
        dense,
        spaced=is_spaced(terms_of(reading.text)),
        held=scored.index.held(scored.terms, scored.keyword),
    )
    return fused(
        dense, scored.keyword, weight=weight, nearness=nearness, stand_in=stand_in
    )


def _fetched(
    base: Base, rows: NDArray[np.int64], ranked: list[Ranked]
) -> Iterator[Passage]:
    """The ranked chunks with their texts, some at a time; the deleted left out."""
    for start in range(0, len(ranked), FETCHED_AT_ONCE):
        part = ranked[start : start + FETCHED_AT_ONCE]
        ids = [int(rows[found.row]) for found in part]
        chunks = _chunks(base, ids)
        for found, pk in zip(part, ids, strict=True):
            if pk in chunks:
                yield _passage(chunks[pk], found)


def _chunks(base: Base, ids: list[int]) -> dict[int, Chunk]:
    """Those of a base's chunks that are still there, by id, with their documents."""
    rows = Chunk.objects.filter(pk__in=ids).select_related("document")
    # Asked for the base and for some ids, SQLite looks through all chunks of the base.
    return {
        chunk.pk: chunk
        for chunk in rows.defer("embedding", "terms")
        if chunk.document.knowledge_base_id == base.id
        and chunk.document.status == Document.Status.READY
    }


def _passage(chunk: Chunk, found: Ranked) -> Passage:
    return Passage(
        content=chunk.text,
        score=round(found.score, 4),
        dense=round(found.dense, 4),
        keyword=round(found.keyword, 4),
        document_id=chunk.document_id,
        document_name=chunk.document.name,
        chunk_ids=(chunk.pk,),
        ordinals=(chunk.ordinal, chunk.ordinal),
        start=chunk.start,
        end=chunk.end,
        page=chunk.page,
        heading_path=tuple(chunk.heading_path),
    )
