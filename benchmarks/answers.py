"""
What a grounded answer rests on: XQuAD through the project's own ingestion and search.

    python -m benchmarks.answers FOLDER [--models local-ngram local-e5]

FOLDER holds xquad.zh.json and xquad.en.json. Prints, in per cent of the questions:

- for how many nothing is said to be relevant: as they are, with the right paragraph
  taken out of the base, and with its article, whose paragraphs are about one thing;
- how often the best sentences, as `local-quote` quotes them, hold the right answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.xquad import (
    LANGUAGES,
    MODELS,
    Filled,
    Paragraph,
    Question,
    knowledge,
    paragraphs,
    project,
)

TOP_K = 5
QUOTED = (1, 2, 3)
# Questions are to be embedded within seconds, as people wait for them.
AT_ONCE = 100

Texts = dict[str, list[Paragraph]]
Vectors = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    asked = parser.parse_args()
    texts = {language: paragraphs(asked.folder, language) for language in LANGUAGES}
    with project(), knowledge() as found:
        for model in asked.models:
            vectors = embedded(model, texts, found)
            for language in LANGUAGES:
                base = Filled(model, texts[language], found)
                print_quoted(model, base, texts[language], vectors)
                print_irrelevant(model, base, language, texts, vectors)


def embedded(model: str, texts: Texts, found: Any) -> Vectors:
    """The vector of each question; None where no provider makes them."""
    questions = [q.text for held in texts.values() for p in held for q in p.questions]
    if model == "local-ngram":
        return dict.fromkeys(questions)
    vectors: Vectors = {}
    for at in range(0, len(questions), AT_ONCE):
        part = questions[at : at + AT_ONCE]
        made = found.embedding.from_thread(model, part, kind="query")
        vectors.update(zip(part, made, strict=True))
    return vectors


def search(base: Filled, question: Question, vectors: Vectors) -> Any:
    from rag.followups import readings
    from rag.retrieval import base_of

    return base.found.search(
        base=base_of(user=base.owner, knowledge_base_id=base.id),
        readings=readings(question.text, before=[]),
        vectors=[vectors[question.text]],
        top_k=TOP_K,
    )


def print_quoted(
    model: str, base: Filled, held: list[Paragraph], vectors: Vectors
) -> None:
    hits: dict[int, list[bool]] = {most: [] for most in QUOTED}
    for paragraph in held:
        for question in paragraph.questions:
            findings = search(base, question, vectors)
            passages = findings.passages if findings.relevant else []
            for most, hit in hits.items():
                quotes = findings.quotes(passages, most=most)
                hit.append(holds([quote.text for quote in quotes], question))
    for most, hit in hits.items():
        name = f"{model}, {held[0].language}: answer in the first {most} quoted"
        print(f"{name:56} {per_cent(hit)}", flush=True)


def holds(quotes: Sequence[str], question: Question) -> bool:
    """Whether one of them has one of the answers, white space aside."""
    return any(
        "".join(answer.split()) in "".join(quote.split())
        for quote in quotes
        for answer in question.answers
    )


def print_irrelevant(
    model: str, base: Filled, language: str, texts: Texts, vectors: Vectors
) -> None:
    """Of the base of one language, asked in both."""
    every = texts[language]
    found: dict[str, dict[str, list[bool]]] = {}

    def ask(taken_out: str, held: Sequence[Paragraph]) -> None:
        for asked in LANGUAGES:
            flags = found.setdefault(asked, {}).setdefault(taken_out, [])
            for paragraph in held:
                for question in texts[asked][paragraph.place].questions:
                    flags.append(not search(base, question, vectors).relevant)

    ask("nothing", every)
    for paragraph in every:
        with base.without([paragraph]):
            ask("the paragraph", [paragraph])
    for article in articles(every):
        with base.without(article):
            ask("the article", article)
    for asked, flags in found.items():
        for taken_out, flagged in flags.items():
            name = f"{model}, {asked} asked of {language}, without {taken_out}"
            print(f"{name + ': irrelevant':56} {per_cent(flagged)}", flush=True)


def articles(held: Sequence[Paragraph]) -> Iterator[list[Paragraph]]:
    for _, paragraphs_of_one in groupby(held, key=lambda paragraph: paragraph.article):
        yield list(paragraphs_of_one)


def per_cent(flags: Sequence[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.1f} %"


if __name__ == "__main__":
    main()
