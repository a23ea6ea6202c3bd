"""
XQuAD, and the project to try it on: a database of its own, filled by its own code.

A folder holds xquad.zh.json and xquad.en.json: in each, the same 48 articles of five
paragraphs with their questions.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = ("zh", "en")
MODELS = ("local-ngram", "local-e5")


@dataclass(frozen=True)
class Question:
    """What is asked, and the spellings of the right answer, each a piece of text."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    """A text and the questions it answers; `place` is the same in both languages."""

    place: int
    article: int
    language: str
    text: str
    questions: tuple[Question, ...]


def paragraphs(folder: Path, language: str) -> list[Paragraph]:
    data = json.loads((folder / f"xquad.{language}.json").read_text("utf-8"))["data"]
    every = [
        (article, paragraph)
        for article, held in enumerate(data)
        for paragraph in held["paragraphs"]
    ]
    return [
        Paragraph(
            place=place,
            article=article,
            language=language,
            text=paragraph["context"],
            questions=tuple(_question(qa) for qa in paragraph["qas"]),
        )
        for place, (article, paragraph) in enumerate(every)
    ]


def _question(qa: dict[str, Any]) -> Question:
    return Question(qa["question"], tuple(answer["text"] for answer in qa["answers"]))


@contextmanager
def project() -> Iterator[None]:
    """The project on a database of its own, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text("sqlite: {path: benchmark.db}\nlimits: {documents: 100000}\n")
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

    from llmbackend.connected import Providers
    from rag.retrieval import Knowledge

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    providers = Providers(settings.CONFIG)
    made: Any = Knowledge(providers, config=settings.CONFIG)
    asyncio.run_coroutine_threadsafe(_started(made.embedding), loop).result(30)
    made.embedding = Remembered(made.embedding)
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(providers.aclose(), loop).result(30)


async def _started(embedding: Any) -> None:
    embedding.start()


class Remembered:
    """
    An Embedding that embeds each question once, of however many bases it is asked and
    in however many ways: one by one, that is most of the time that a benchmark takes.
    """

    def __init__(self, embedding: Any) -> None:
        self._embedding = embedding
        self._known: dict[tuple[str, ...], Any] = {}

    def from_thread(
        self, model: str, texts: Sequence[str], *, kind: str, **more: Any
    ) -> Any:
        if kind == "passage":
            return self._embedding.from_thread(model, texts, kind=kind, **more)
        asked = (model, *texts)
        if asked not in self._known:
            self._known[asked] = self._embedding.from_thread(model, texts, kind=kind)
        return self._known[asked]


class Filled:
    """A base of Ann's with paragraphs in it, each a document of its own."""

    def __init__(self, model: str, texts: Sequence[Paragraph], found: Any) -> None:
        from accounts.models import User
        from rag import bases

        self.found = found
        self.owner, _ = User.objects.get_or_create(username="ann")
        self.id = bases.create(
            owner=self.owner, name=model, embedding_model_name=model
        ).pk
        self.places: dict[str, int] = {}
        self.add(texts)

    def add(self, texts: Sequence[Paragraph]) -> None:
        with ThreadPoolExecutor(2) as pool:
            documents = list(pool.map(self._added, texts))
        self.places |= {
            document: paragraph.place
            for document, paragraph in zip(documents, texts, strict=True)
        }

    @contextmanager
    def without(self, texts: Sequence[Paragraph]) -> Iterator[None]:
        """
        These are not found meanwhile, as if they were still being taken in: quicker
        than to delete them and to take them in again, and the same to a search.
        """
        from rag.models import Document

        gone = {paragraph.place for paragraph in texts}
        hidden = [document for document, place in self.places.items() if place in gone]
        self._mark(hidden, Document.Status.PROCESSING)
        yield
        self._mark(hidden, Document.Status.READY)

    def _mark(self, documents: Sequence[str], status: str) -> None:
        from rag import bases
        from rag.models import Document

        Document.objects.filter(pk__in=documents).update(status=status)
        bases.changed(self.id)

    def _added(self, paragraph: Paragraph) -> str:
        from rag.ingestion import Upload, add_document

        name = f"{paragraph.language}-{paragraph.place}.txt"
        file = io.BytesIO(paragraph.text.encode())
        added = add_document(
            owner=self.owner,
            knowledge_base_id=self.id,
            upload=Upload(name=name, encoding="utf-8", file=file),
            embedding=self.found.embedding,
        )
        return str(added.document_id)
