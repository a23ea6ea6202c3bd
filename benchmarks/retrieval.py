"""
How well the right paragraph is found: XQuAD through the project's own ingestion and
retrieval.

    python -m benchmarks.retrieval FOLDER [--models local-e5 local-ngram]

FOLDER holds xquad.zh.json and xquad.en.json. Each paragraph is uploaded as a document
of its own and every question is asked: same-language, cross-language, of a base that
holds every paragraph in both languages, either being right (`both`), and of one that
holds every other paragraph in Chinese and the rest in English (`halves`). Prints
recall@1, recall@5, MRR@10 and nDCG@10.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.xquad import (
    LANGUAGES,
    MODELS,
    Filled,
    Paragraph,
    knowledge,
    paragraphs,
    project,
)

Mode = Literal["hybrid", "dense", "keyword"]
MODES: tuple[Mode, ...] = ("keyword", "dense", "hybrid")
DEPTH = 10
# A cross-language question's right paragraph is the one at the same place.
PAIRS = (
    ("zh", "zh"),
    ("en", "en"),
    ("zh", "en"),
    ("en", "zh"),
    ("zh", "both"),
    ("en", "both"),
    ("zh", "halves"),
    ("en", "halves"),
)


def figures(ranks: Sequence[int | None]) -> str:
    """Ranks are from 1, None for not among the first ten."""
    reached = np.array([rank or 0 for rank in ranks])
    hit = reached > 0
    reciprocal = np.where(hit, 1 / np.maximum(reached, 1), 0)
    gain = np.where(hit, 1 / np.log2(np.maximum(reached, 1) + 1), 0)
    first, fifth = (reached == 1).mean(), (hit & (reached <= 5)).mean()
    return f"{first:.3f} {fifth:.3f} {reciprocal.mean():.3f} {gain.mean():.3f}"


def rank_of(question: str, place: int, *, mode: Mode, base: Filled) -> int | None:
    from rag.retrieval import retrieve

    passages = retrieve(
        owner=base.owner,
        knowledge_base_id=base.id,
        question=question,
        top_k=DEPTH,
        mode=mode,
        knowledge=base.found,
    )
    shown = [base.places[str(passage.document_id)] for passage in passages]
    return shown.index(place) + 1 if place in shown else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    asked = parser.parse_args()
    texts = {language: paragraphs(asked.folder, language) for language in LANGUAGES}
    texts["both"] = texts["zh"] + texts["en"]
    texts["halves"] = texts["zh"][::2] + texts["en"][1::2]
    with project(), knowledge() as found:
        for model in asked.models:
            compare(model, texts, found)


def compare(model: str, texts: dict[str, list[Paragraph]], found: Any) -> None:
    made = {}
    for name, held in texts.items():
        began = time.monotonic()
        made[name] = Filled(model, held, found)
        took = time.monotonic() - began
        print(f"{model}: {len(held)} texts ({name}) in {took:.0f} s", file=sys.stderr)
    print(f"\n{model:34} recall@1 @5 MRR@10 nDCG@10")
    for asked, of in PAIRS:
        for mode in MODES:
            ranks = [
                rank_of(question.text, paragraph.place, mode=mode, base=made[of])
                for paragraph in texts[asked]
                for question in paragraph.questions
            ]
            print(
                f"{asked} asked of {of:6} {mode:8}        {figures(ranks)}", flush=True
            )


if __name__ == "__main__":
    main()
