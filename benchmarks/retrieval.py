"""
How well the right paragraph is found: XQuAD through the project's own ingestion and
retrieval.

    python -m benchmarks.retrieval FOLDER [--models local-e5 local-ngram]

FOLDER holds xquad.zh.json and xquad.en.json. Each paragraph is uploaded as a document
of its own and every question is asked, same-language, cross-language and of a base
that holds both languages. Prints recall@1, recall@5, MRR@10 and nDCG@10.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

LANGUAGES = ("zh", "en")
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
)


@dataclass(frozen=True)
class Paragraph:
    """A text and the questions it answers; `place` is the same in both languages."""

    place: int
    language: str
    text: str
    questions: tuple[str, ...]


def paragraphs(folder: Path, language: str) -> list[Paragraph]:
    data = json.loads((folder / f"xquad.{language}.json").read_text("utf-8"))["data"]
    every = [paragraph for article in data for paragraph in article["paragraphs"]]
    return [
        Paragraph(
            place=place,
            language=language,
            text=paragraph["context"],
            questions=tuple(qa["question"] for qa in paragraph["qas"]),
        )
        for place, paragraph in enumerate(every)
    ]


@contextmanager
def project() -> Iterator[None]:
    """The project on a database of its own, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text("sqlite: {path: benchmark.db}\n")
        os.environ["LLMBACKEND_CONFIG"] = str(config)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmbackend.settings")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        yield


@contextmanager
def knowledge() -> Iterator[Any]:
    """Embedding and search, with the event loop that they need."""
    from django.conf import settings

    from llmbackend.chat_models import Providers
    from rag.retrieval import Knowledge

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    providers = Providers(settings.CONFIG)
    made = Knowledge(providers, config=settings.CONFIG)
    loop.call_soon_threadsafe(made.embedding.start)
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(providers.aclose(), loop).result(30)


def filled(
    owner: Any, model: str, texts: Sequence[Paragraph], found: Any
) -> tuple[Any, dict[str, int]]:
    """A base that holds `texts`; and the place of each document by its id."""
    from rag import bases
    from rag.ingestion import Upload, add_document

    base = bases.create(owner=owner, name=model, embedding_model_name=model)

    def add(paragraph: Paragraph) -> tuple[str, int]:
        name = f"{paragraph.language}-{paragraph.place}.txt"
        file = io.BytesIO(paragraph.text.encode())
        added = add_document(
            owner=owner,
            knowledge_base_id=base.pk,
            upload=Upload(name=name, encoding="utf-8", file=file),
            embedding=found.embedding,
        )
        return str(added.document_id), paragraph.place

    with ThreadPoolExecutor(2) as pool:
        return base.pk, dict(pool.map(add, texts))


def figures(ranks: Sequence[int | None]) -> str:
    """Ranks are from 1, None for not among the first ten."""
    reached = np.array([rank or 0 for rank in ranks])
    hit = reached > 0
    reciprocal = np.where(hit, 1 / np.maximum(reached, 1), 0)
    gain = np.where(hit, 1 / np.log2(np.maximum(reached, 1) + 1), 0)
    first, fifth = (reached == 1).mean(), (hit & (reached <= 5)).mean()
    return f"{first:.3f} {fifth:.3f} {reciprocal.mean():.3f} {gain.mean():.3f}"


def rank_of(
    question: str,
    place: int,
    *,
    mode: Mode,
    base: Any,
    places: dict[str, int],
    **how: Any,
) -> int | None:
    from rag.retrieval import retrieve

    passages = retrieve(
        knowledge_base_id=base, question=question, top_k=DEPTH, mode=mode, **how
    )
    shown = [places[str(passage.document_id)] for passage in passages]
    return shown.index(place) + 1 if place in shown else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["local-ngram", "local-e5"])
    asked = parser.parse_args()
    texts = {language: paragraphs(asked.folder, language) for language in LANGUAGES}
    texts["both"] = texts["zh"] + texts["en"]
    with project(), knowledge() as found:
        from accounts.models import User

        owner = User.objects.create_user("benchmark")
        for model in asked.models:
            compare(owner, model, texts, found)


def compare(
    owner: Any, model: str, texts: dict[str, list[Paragraph]], found: Any
) -> None:
    made = {}
    for name, held in texts.items():
        began = time.monotonic()
        made[name] = filled(owner, model, held, found)
        took = time.monotonic() - began
        print(f"{model}: {len(held)} texts ({name}) in {took:.0f} s", file=sys.stderr)
    print(f"\n{model:34} recall@1 @5 MRR@10 nDCG@10")
    for asked, of in PAIRS:
        base, places = made[of]
        for mode in MODES:
            ranks = [
                rank_of(
                    question,
                    paragraph.place,
                    mode=mode,
                    base=base,
                    places=places,
                    owner=owner,
                    knowledge=found,
                )
                for paragraph in texts[asked]
                for question in paragraph.questions
            ]
            print(
                f"{asked} asked of {of:5} {mode:8}         {figures(ranks)}", flush=True
            )


if __name__ == "__main__":
    main()
