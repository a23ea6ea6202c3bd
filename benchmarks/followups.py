"""
How well a question is found behind another: XQuAD through the project's own search.

    python -m benchmarks.followups FOLDER [--models local-ngram local-e5]

FOLDER holds xquad.zh.json and xquad.en.json. Every fourth question is asked behind one
of the same paragraph, behind one of another article, and one that says nothing by
itself ("Why?") is asked behind it. Prints recall@1, recall@5, MRR@10 and nDCG@10 of the
right paragraph when the question is looked up alone, joined to the one before it, and
as the project does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.retrieval import DEPTH, figures
from benchmarks.xquad import (
    LANGUAGES,
    MODELS,
    Filled,
    Paragraph,
    knowledge,
    paragraphs,
    project,
)

EVERY = 4
BARE = {
    "zh": ("为什么?", "多少钱?", "什么时候?", "那谁来付呢?", "还有呢?", "在哪里?"),
    "en": ("Why?", "How much?", "When?", "And who pays it?", "What else?", "Where?"),
}

# The question before, the question, and the place of the right paragraph.
Turn = tuple[str, str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    asked = parser.parse_args()
    with project(), knowledge() as found:
        for model in asked.models:
            print(f"\n{model:46} recall@1 @5 MRR@10 nDCG@10")
            for language in LANGUAGES:
                texts = paragraphs(asked.folder, language)
                compare(Filled(model, texts, found), turns(texts))


def turns(texts: list[Paragraph]) -> dict[str, list[Turn]]:
    every = [(question.text, held) for held in texts for question in held.questions]
    numbers = range(0, len(every), EVERY)
    bare = BARE[texts[0].language]
    far = len(every) // 2
    return {
        f"{texts[0].language}: same paragraph": [
            (every[n - 1][0], every[n][0], every[n][1].place)
            for n in numbers
            if n and every[n - 1][1] is every[n][1]
        ],
        f"{texts[0].language}: another article": [
            (every[n - far][0], every[n][0], every[n][1].place) for n in numbers
        ],
        f"{texts[0].language}: nothing by itself": [
            (every[n][0], bare[n // EVERY % len(bare)], every[n][1].place)
            for n in numbers
        ],
    }


def compare(base: Filled, asked: dict[str, list[Turn]]) -> None:
    from rag.followups import Reading, readings

    ways: dict[str, Callable[[str, str], list[Any]]] = {
        "alone": lambda before, question: [Reading(question, 1.0)],
        "joined": lambda before, question: [Reading(f"{before}\n{question}", 1.0)],
        "both": lambda before, question: readings(question, before=[before]),
    }
    for name, held in asked.items():
        for way, read in ways.items():
            ranks = [
                rank_of(base, read(before, question), place)
                for before, question, place in held
            ]
            print(f"{name:30} {way:15} {figures(ranks)}", flush=True)


def rank_of(base: Filled, readings: list[Any], place: int) -> int | None:
    from rag.embedding_models import LOCAL_NGRAM
    from rag.retrieval import base_of

    of = base_of(user=base.owner, knowledge_base_id=base.id)
    vectors: list[Any] = [None] * len(readings)
    if of.embedding_model != LOCAL_NGRAM:
        texts = [reading.text for reading in readings]
        embedding = base.found.embedding
        vectors = [*embedding.from_thread(of.embedding_model, texts, kind="query")]
    findings = base.found.search(
        base=of, readings=readings, vectors=vectors, top_k=DEPTH
    )
    shown = [base.places[str(passage.document_id)] for passage in findings.passages]
    return shown.index(place) + 1 if place in shown else None


if __name__ == "__main__":
    main()
