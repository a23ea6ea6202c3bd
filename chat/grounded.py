"""What a model is sent for a turn, and what was found for it in a knowledge base."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from accounts.models import User
from chat import prompts
from chat.asks import Ask
from chat.grounding import Grounded, Source, grounded
from conversations.asked import Continue
from conversations.sources import base_before, note_sources
from conversations.turns import Turn
from llmbackend.chat_models import prompt_budget
from llmbackend.errors import NotFound
from llmbackend.threads import DatabaseThreads
from rag.followups import readings
from rag.indexes import Base
from rag.passages import Passage
from rag.quoting import Quote
from rag.retrieval import Findings, Knowledge, base_of, texts_of

SNIPPET = 200
# Of the tokens a prompt may have, the share that passages may take.
PASSAGES_SHARE = 0.6
TOKENS_AROUND_PASSAGE = 60
TOKENS_OF_RULES = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """Where to look for the answer to a turn's question."""

    base: Base
    top_k: int
    knowledge: Knowledge
    threads: DatabaseThreads
    writer: uuid.UUID

    async def find(self, turn: Turn) -> Findings:
        """What is found for the question, asked behind those before it."""
        before = [said.content for said in turn.earlier if said.role == "user"]
        asked = readings(turn.question, before=before)
        vectors = await self.knowledge.vectors(self.base, asked)
        return await self.threads.run(
            self.knowledge.search,
            base=self.base,
            readings=asked,
            vectors=vectors,
            top_k=self.top_k,
        )

    async def quotes(
        self, findings: Findings, passages: Sequence[Passage]
    ) -> list[Quote]:
        """The sentences that answer the question best."""
        return await self.threads.run(findings.quotes, passages)

    async def texts_again(self, turn: Turn) -> list[str]:
        """The texts of the sources that a continued answer rests on."""
        chunks = [source["chunk_ids"] for source in turn.sources]
        return await self.threads.run(texts_of, base=self.base, chunk_ids=chunks)


def base_for(user: User, ask: Ask) -> Base | None:
    """
    The base to answer from; raises NotFound.

    An answer goes on without the one it rests on, if that has gone.
    """
    if ask.knowledge_base_id is not None:
        return base_of(user=user, knowledge_base_id=ask.knowledge_base_id)
    if not ask.same_base:
        return None
    base_id = base_before(
        user=user, conversation_id=ask.conversation_id, asked=ask.asked
    )
    if base_id is None:
        return None
    try:
        return base_of(user=user, knowledge_base_id=base_id)
    except NotFound:
        if isinstance(ask.asked, Continue):
            return None
        raise


def room_for(base: Base | None, *, top_k: int) -> int:
    """The tokens that passages of a base may add to a question at most."""
    if base is None:
        return 0
    # Neighbours become one passage, and others take their places.
    chunks = 2 * top_k * base.chunk_tokens
    return chunks + top_k * TOKENS_AROUND_PASSAGE + TOKENS_OF_RULES


async def store_sources(
    grounding: Grounding, turn: Turn, passages: Sequence[Passage]
) -> list[dict[str, Any]]:
    """The sources as a client is told of them, once they are committed."""
    sources = [
        as_source(number, passage, base=grounding.base)
        for number, passage in enumerate(passages, start=1)
    ]
    await grounding.threads.run(
        note_sources, turn=turn, writer=grounding.writer, sources=sources
    )
    return sources


def as_source(number: int, passage: Passage, *, base: Base) -> dict[str, Any]:
    """A passage as history and the `sources` event name it."""
    return {
        "number": number,
        "kb_id": str(base.id),
        "doc_id": str(passage.document_id),
        "doc_name": passage.document_name,
        "score": passage.score,
        "snippet": passage.content[:SNIPPET],
        "chunk_ids": list(passage.chunk_ids),
        "start": passage.start,
        "end": passage.end,
        "page": passage.page,
        "heading_path": list(passage.heading_path),
    }


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance that is not in the history yet."""

    role: str
    content: str


def plain_messages(turn: Turn) -> list[dict[str, str]]:
    """What the model is sent without a knowledge base."""
    return _messages(turn, Grounded(rules="", passages="", kept=0))


def grounded_messages(
    turn: Turn, findings: Findings
) -> tuple[list[dict[str, str]], list[Passage]]:
    """What the model is sent, and the passages that fit into it."""
    passages = findings.passages if findings.relevant else []
    sources = [
        Source(name=passage.document_name, text=passage.content) for passage in passages
    ]
    found = _grounded(turn, sources)
    return _messages(turn, found), passages[: found.kept]


def continued_messages(turn: Turn, texts: Sequence[str]) -> list[dict[str, str]]:
    """
    What the model is sent to go on with an answer that rests on sources.

    `texts` are theirs; where all have been deleted, it goes on without.
    """
    if not any(texts):
        return plain_messages(turn)
    sources = [
        Source(name=source["doc_name"], text=text)
        for source, text in zip(turn.sources, texts, strict=True)
    ]
    return _messages(turn, _grounded(turn, sources))


def _grounded(turn: Turn, sources: Sequence[Source]) -> Grounded:
    budget = int(budget_of(turn) * PASSAGES_SHARE)
    return grounded(question=turn.question, sources=sources, budget=budget)


def _messages(turn: Turn, found: Grounded) -> list[dict[str, str]]:
    earlier: list[prompts.Utterance] = list(turn.earlier)
    question = turn.question
    if turn.continues and turn.text:
        earlier += [Spoken("user", question), Spoken("assistant", turn.text)]
        question = prompts.go_on(turn.text)
    return prompts.plain(
        system_prompt=prompts.joined(system_prompt_of(turn), found.rules),
        earlier=earlier,
        passages=found.passages,
        question=question,
        budget=budget_of(turn),
    )


def system_prompt_of(turn: Turn) -> str:
    configured: str = settings.CONFIG.chat.system_prompt
    return configured if turn.system_prompt is None else turn.system_prompt


def budget_of(turn: Turn) -> int:
    """Tokens the prompt may have."""
    return prompt_budget(turn.model, max_tokens=turn.max_tokens, config=settings.CONFIG)
