"""import_documents: whole folders into a knowledge base."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from rag.models import Document, KnowledgeBase
from tests.conftest import Client
from tests.rag.embeddings import make_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("Swifts sleep while they fly.")
    (tmp_path / "deep" / "b.md").write_text("# Owls\n\nOwls hunt at night.")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    return tmp_path


def imported(*arguments: Any) -> str:
    out = StringIO()
    call_command(
        "import_documents", *map(str, arguments), stdout=out, stderr=StringIO()
    )
    return out.getvalue()


def test_a_folder_becomes_a_base_that_is_found_in(
    as_alice: Client, folder: Path
) -> None:
    said = imported(folder, "--user", "Alice", "--kb", "Birds", "--create")

    assert said.count("1 chunks") == 2
    base = KnowledgeBase.objects.get(name="Birds")
    found = as_alice.post(
        "/api/rag/retrieve", json={"kb_id": str(base.pk), "query": "owls"}
    )
    assert found.json()["results"][0]["doc_name"] == "b.md"


def test_run_again_it_adds_nothing(as_alice: Client, folder: Path) -> None:
    base = make_base(as_alice)

    imported(folder, "--user", "alice", "--kb", base)
    said = imported(folder, "--user", "alice", "--kb", base)

    assert said.count("there already") == 2
    assert Document.objects.count() == 2


def test_a_name_of_another_encoding_or_with_controls_stops_nothing(
    as_alice: Client, folder: Path
) -> None:
    named = {"合同.txt".encode("gbk"): "Cranes dance.", b"b\n\x1b[1m.txt": "Terns."}
    for name, text in named.items():
        (folder / os.fsdecode(name)).write_text(text)

    said = imported(folder, "--user", "alice", "--kb", make_base(as_alice))

    assert said.count("1 chunks") == 4
    names = set(Document.objects.values_list("name", flat=True))
    assert names == {"a.txt", "b.md", "b[1m.txt", "\ufffd\ufffd\u036c.txt"}
    said.encode()


@pytest.mark.parametrize("name", ["", "  ", "x" * 501])
def test_a_base_of_no_name_is_not_made(
    as_alice: Client, folder: Path, name: str
) -> None:
    with pytest.raises(CommandError, match="1 to 500"):
        imported(folder, "--user", "alice", "--kb", name, "--create")
    assert not KnowledgeBase.objects.exists()


def test_a_dry_run_lists_the_files(as_alice: Client, folder: Path) -> None:
    said = imported(folder, "--user", "alice", "--kb", make_base(as_alice), "--dry-run")

    assert [Path(line).name for line in said.splitlines()] == ["a.txt", "b.md"]
    assert not Document.objects.exists()


def test_what_cannot_be_read_is_told_after_the_rest(
    as_alice: Client, folder: Path
) -> None:
    (folder / "a.pdf").write_text("no PDF")
    base = make_base(as_alice)

    with pytest.raises(CommandError, match="1 of 3 files"):
        imported(folder, "--user", "alice", "--kb", base)

    assert Document.objects.filter(status="ready").count() == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--user", "nobody", "--kb", "Birds"], "no user"),
        (["--user", "alice", "--kb", "Birds"], "--create"),
    ],
)
def test_what_is_not_there_is_named(
    as_alice: Client, folder: Path, arguments: list[str], complaint: str
) -> None:
    with pytest.raises(CommandError, match=complaint):
        imported(folder, *arguments)


def test_someone_elses_base_is_not_there(
    as_alice: Client, as_mallory: Client, folder: Path
) -> None:
    with pytest.raises(CommandError, match="no knowledge base"):
        imported(folder, "--user", "mallory", "--kb", make_base(as_alice))
