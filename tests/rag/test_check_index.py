"""check_index: damage is found, and mended where the text is enough."""

from __future__ import annotations

from io import StringIO
from threading import Thread
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from rag.models import Chunk, Document, KnowledgeBase
from tests.conftest import Client
from tests.rag.embeddings import make_base


@pytest.fixture
def base(as_alice: Client) -> str:
    base = make_base(as_alice)
    as_alice.post(
        "/api/rag/doc/upload",
        data={"kb_id": base},
        files={"file": ("a.txt", b"Swifts sleep while they fly.")},
    ).raise_for_status()
    return base


def check(*options: str) -> str:
    out = StringIO()
    call_command("check_index", *options, stdout=out)
    return out.getvalue()


def found(client: Client, base: str) -> Any:
    body = {"kb_id": base, "query": "Do swifts sleep?"}
    return client.post("/api/rag/retrieve", json=body).json()


def test_a_sound_base_is_said_to_be_so(base: str) -> None:
    assert check() == "Every document can be searched.\n"


@pytest.mark.parametrize(
    "damage", [{"terms": b""}, {"embedding": b"\0" * 12}, {"embedding": b"\xff" * 8192}]
)
def test_damage_is_found_and_mended_from_the_text(
    as_alice: Client, base: str, damage: dict[str, bytes]
) -> None:
    before, sound = found(as_alice, base), Chunk.objects.values().get()
    Chunk.objects.update(**damage)

    with pytest.raises(CommandError, match="1 documents are damaged"):
        check()
    with pytest.raises(CommandError):
        check("--repair", "--dry-run")
    assert "mended" in check("--repair")

    assert Chunk.objects.values().get() == sound
    assert check() == "Every document can be searched.\n"
    assert found(as_alice, base) == before


def test_a_vector_that_cannot_be_made_anew_fails_its_document(
    as_alice: Client, base: str
) -> None:
    KnowledgeBase.objects.update(embedding_model="fake-embedding")
    Chunk.objects.update(embedding=b"\0" * 12)

    said = check("--repair")

    assert "to be uploaded again" in said
    document = Document.objects.get()
    assert (document.status, document.error_code) == ("failed", "damaged")
    assert not Chunk.objects.exists()


def test_missing_chunks_are_found(as_alice: Client, base: str) -> None:
    Chunk.objects.all().delete()

    with pytest.raises(CommandError, match="1 documents are damaged"):
        check()


def test_a_repair_goes_on_while_others_write(base: str) -> None:
    times = {"created_at": timezone.now(), "ready_at": timezone.now()}
    Document.objects.bulk_create(
        Document(
            knowledge_base_id=base,
            name="a.txt",
            sha256=str(number),
            status="ready",
            chunks_total=1,
            **times,
        )
        for number in range(250)
    )

    class Renaming(StringIO):
        """Whenever something is said, another connection writes."""

        def write(self, text: str) -> int:
            def rename() -> None:
                KnowledgeBase.objects.update(name=f"At {self.tell()}")
                connection.close()

            thread = Thread(target=rename)
            thread.start()
            thread.join()
            return super().write(text)

    call_command("check_index", "--repair", stdout=Renaming())

    assert Document.objects.filter(error_code="damaged").count() == 250
    assert check() == "Every document can be searched.\n"
