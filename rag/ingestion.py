"""A file into a knowledge base: parse, embed, store, and only then show."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import IO

import numpy as np
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from numpy.typing import NDArray

from accounts import idempotency
from accounts.idempotency import Once, once
from accounts.models import User
from llmbackend import metrics
from llmbackend.errors import (
    AlreadyProcessing,
    DimensionChanged,
    EmptyDocument,
    Internal,
    LLMBackendError,
    NotFound,
    TooLarge,
)
from rag.bases import changed, lock
from rag.dense import pack
from rag.embedders import Embedding, Matrix
from rag.embedding_models import LOCAL_NGRAM
from rag.models import Chunk, Document, KnowledgeBase
from rag.pacing import paced
from rag.parsing import Parsed, ParsedChunk, Sizes, parse
from rag.quota import check_quota

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=10)
RENEW_EVERY = 2.0
BATCH = 256
STORED_AT_ONCE = 32
WAIT_FOR_OTHER = 600.0
Status = Document.Status
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """
    A file as it came; `encoding` is the sender's word for a text's, or "".

    `key` is the Idempotency-Key it came under.
    """

    name: str
    encoding: str
    file: IO[bytes]
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A document that is ready; `duplicate` when it was so before."""

    document_id: uuid.UUID
    chunks: int
    encoding: str
    duplicate: bool = False


def add_document(
    *, owner: User, knowledge_base_id: uuid.UUID, upload: Upload, embedding: Embedding
) -> Added:
    """
    Put a file into an owned base and return when it can be found there.

    The same bytes are stored once a base, however many come at once. On any error
    nothing of the document stays. Raises NotFound, EmptyDocument and its kin,
    TooLarge, QuotaExceeded, DimensionChanged and ProviderErrors.
    """
    KnowledgeBase.objects.owned_by(owner).fetch(knowledge_base_id)
    fail_abandoned()
    sha256, size = digest(upload.file)
    if not size:
        raise EmptyDocument
    largest = settings.CONFIG.rag.max_upload_mb
    if size > largest << 20:
        raise TooLarge(f"A document may have {largest} MB at most.")
    key = once(
        upload.key, "upload", knowledge_base_id, upload.name, upload.encoding, sha256
    )
    give_up_at = time.monotonic() + WAIT_FOR_OTHER
    while time.monotonic() < give_up_at:
        # Fetched at each look: it may be deleted while another's work is awaited.
        base = KnowledgeBase.objects.owned_by(owner).fetch(knowledge_base_id)
        found = claimed(owner, base, upload, sha256, size, key)
        if isinstance(found, Added):
            return found
        if isinstance(found, Work):
            with found.undone_on_error():
                return found.do(upload, embedding)
        time.sleep(0.2)
    raise AlreadyProcessing


def digest(file: IO[bytes]) -> tuple[str, int]:
    """A file's sha256 and size; leaves it at its start."""
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return sha256, size


def claimed(
    owner: User,
    base: KnowledgeBase,
    upload: Upload,
    sha256: str,
    size: int,
    key: Once | None,
) -> Work | Added | None:
    """What is to be done here, what was done before, or None while another does it."""
    same = Document.objects.filter(knowledge_base=base, sha256=sha256)
    try:
        with transaction.atomic():
            made = idempotency.claim(owner, key)
            # One look: between two, another may make the document ready.
            found = same.first()
            if found is not None and found.status == Status.READY:
                idempotency.settle(owner, key, made=str(found.pk))
                return Added(
                    document_id=found.pk,
                    chunks=found.chunks_total,
                    encoding=found.encoding,
                    duplicate=made != str(found.pk),
                )
            if made is not None and (found is None or made != str(found.pk)):
                raise NotFound("The document was deleted since.")
            if found is not None and found.status == Status.PROCESSING:
                return None
            same.filter(status=Status.FAILED).delete()
            check_quota(owner, size=size)
            document = _new_row(base, upload, sha256, size)
            idempotency.settle(owner, key, made=str(document.pk))
            return Work(base, document, owner=owner, key=key)
    except IntegrityError:
        return None  # Another was first, or the base has gone: the next look tells.


def _new_row(base: KnowledgeBase, upload: Upload, sha256: str, size: int) -> Document:
    return Document.objects.create(
        knowledge_base=base,
        name=upload.name,
        type=upload.name.rpartition(".")[2].lower()[:16],
        sha256=sha256,
        embedding_model=base.embedding_model,
        size_bytes=size,
        claim=uuid.uuid4(),
        lease_until=Now() + LEASE,
        created_at=timezone.now(),
    )


class Work:
    """One document being processed by us; every write says so."""

    def __init__(
        self, base: KnowledgeBase, document: Document, *, owner: User, key: Once | None
    ) -> None:
        """`key` is what the document was asked for under."""
        self._base = base
        self._owner = owner
        self._key = key
        self._pk = document.pk
        self._claim = document.claim
        self._renewed = time.monotonic()

    @property
    def _mine(self) -> QuerySet[Document]:
        return Document.objects.filter(
            pk=self._pk, status=Status.PROCESSING, claim=self._claim
        )

    def do(self, upload: Upload, embedding: Embedding) -> Added:
        base = self._base
        sizes = Sizes(
            cjk=base.chunk_size_cjk,
            latin=base.chunk_size_latin,
            overlap_percent=base.overlap_percent,
        )
        with metrics.ingesting("parse"):
            parsed = parse(
                upload.file,
                name=upload.name,
                encoding=upload.encoding,
                sizes=sizes,
                ngrams=base.embedding_model == LOCAL_NGRAM,
                waiting=self._renew,
            )
        self._note(
            type=parsed.type,
            encoding=parsed.encoding,
            stage=Document.Stage.CHUNKED,
            chunks_total=len(parsed.chunks),
            size_characters=len(parsed.text),
        )
        dimension = self._embed_and_store(parsed, embedding)
        self._show(dimension)
        metrics.ingestion_ended("ready")
        return Added(
            document_id=self._pk, chunks=len(parsed.chunks), encoding=parsed.encoding
        )

    def _embed_and_store(self, parsed: Parsed, embedding: Embedding) -> int:
        """Store the chunks, still invisible; the vectors' dimension."""
        dimension = self._base.dimension
        for start in range(0, len(parsed.chunks), BATCH):
            ordinals = range(len(parsed.chunks))[start : start + BATCH]
            part = [parsed.chunks[n] for n in paced(ordinals, at_once=STORED_AT_ONCE)]
            texts = [parsed.text[chunk.start : chunk.end] for chunk in part]
            with metrics.ingesting("embed"):
                vectors = self._vectors(part, texts, embedding)
            if dimension not in {None, vectors.shape[1]}:
                raise DimensionChanged
            dimension = vectors.shape[1]
            rows = list(zip(ordinals, part, texts, vectors, strict=True))
            with metrics.ingesting("store"):
                for first in paced(range(0, len(rows), STORED_AT_ONCE), at_once=1):
                    self._store(rows[first : first + STORED_AT_ONCE])
        return dimension or 0

    def _store(self, rows: Sequence[tuple[int, ParsedChunk, str, Vector]]) -> None:
        """Chunks that follow one another: number, what was parsed, text, vector."""
        chunks = [
            Chunk(
                document_id=self._pk,
                ordinal=ordinal,
                text=text,
                start=chunk.start,
                end=chunk.end,
                page=chunk.page,
                heading_path=list(chunk.heading_path),
                embedding=stored(vector),
                terms=chunk.terms,
            )
            for ordinal, chunk, text, vector in rows
        ]
        with transaction.atomic():
            self._note(chunks_done=rows[-1][0] + 1)
            Chunk.objects.bulk_create(chunks)

    def _vectors(
        self, part: Sequence[ParsedChunk], texts: list[str], embedding: Embedding
    ) -> Matrix:
        model = self._base.embedding_model
        if model == LOCAL_NGRAM:
            return np.stack([chunk.vector for chunk in part])
        return embedding.from_thread(model, texts, kind="passage", waiting=self._renew)

    @transaction.atomic
    def _show(self, dimension: int) -> None:
        """The one transaction that makes the document visible."""
        self._note(
            status=Status.READY,
            stage=Document.Stage.EMBEDDED,
            ready_at=timezone.now(),
            claim=None,
            lease_until=None,
        )
        bases = KnowledgeBase.objects.filter(pk=self._base.pk)
        fits = Q(dimension=None) | Q(dimension=dimension)
        if not bases.filter(fits).update(dimension=dimension):
            raise DimensionChanged
        changed(self._base.pk)

    def _note(self, **fields: object) -> None:
        """Write what is known by now; raise NotFound when the document has gone."""
        fields = {"lease_until": Now() + LEASE, **fields}
        if not self._mine.update(**fields):
            raise NotFound("The knowledge base or the document was deleted meanwhile.")
        self._renewed = time.monotonic()

    def _renew(self) -> None:
        """Say that the work goes on; cheap to call often."""
        if time.monotonic() - self._renewed > RENEW_EVERY:
            self._note()

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as exc:
            kind = exc if isinstance(exc, LLMBackendError) else Internal
            metrics.ingestion_ended(kind.code)
            mine = Document.objects.filter(pk=self._pk, claim=self._claim)
            with transaction.atomic():
                if lock(mine):
                    mine.delete()
                idempotency.release(self._owner, self._key)
            raise


def stored(vector: Vector) -> bytes:
    """A vector's row; zeros, near to nothing, for a text of signs without words."""
    return pack(vector) if vector.any() else bytes(4 * len(vector))


def fail_abandoned() -> int:
    """End what dead processes left processing, with a reason; how many there were."""
    dead = Document.objects.filter(status=Status.PROCESSING, lease_until__lt=Now())
    failed = 0
    for pk in dead.values_list("pk", flat=True):
        with transaction.atomic():
            ended = dead.filter(pk=pk).update(
                status=Status.FAILED,
                error_code="interrupted",
                claim=None,
                lease_until=None,
            )
            if ended:
                Chunk.objects.filter(document=pk).delete()
            failed += ended
    if failed:
        logger.warning("%s documents were left unfinished by a dead process", failed)
    return failed
