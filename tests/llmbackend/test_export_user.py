"""export_user: everything that is one user's, in one file."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import ApiKey, User
from conversations.models import Conversation
from rag.models import Document
from tests.conftest import Client, make_key
from tests.conversations.conftest import make_conversation, make_turns
from tests.patience import PATIENCE
from tests.rag.embeddings import make_base
from tests.served import ROOT, ServeProcess

TEXT = "\n\n".join(f"第{n}条 租赁期限不得超过二十年。Swifts fly." for n in range(90))


def run(*command: Any) -> tuple[str, str]:
    """What it says on stdout and on stderr."""
    out, err = StringIO(), StringIO()
    call_command("export_user", *map(str, command), stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def contents(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


@pytest.fixture
def owned(as_alice: Client, alice: User, mallory: User) -> dict[str, str]:
    """A conversation with an answer, a base with a document, a key, and Mallory's."""
    conversation = as_alice.conversation(title="雨燕", api_key="sk-own-key")
    as_alice.ask(conversation, "How do swifts sleep?")
    base = make_base(as_alice, kb_name="合同")
    uploaded = as_alice.post(
        "/api/rag/doc/upload",
        data={"kb_id": base},
        files={"file": ("合同.md", f"# 合同\n\n{TEXT}\n".encode())},
    )
    make_key(alice, "chat")
    make_turns(make_conversation(mallory, title="Mallory's"), "Mallory's answer")
    make_key(mallory, "chat")
    return {
        "conversation": str(conversation),
        "base": base,
        "document": uploaded.json()["doc_id"],
    }


def test_has_everything_and_no_secret(
    alice: User, owned: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "alice.zip"

    out, _ = run("ALICE", path)

    assert out == f"The export of alice is complete: {path}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    files = contents(path)
    base = f"knowledge_bases/{owned['base']}"
    talk, doc = (
        f"conversations/{owned['conversation']}.json",
        f"{base}/documents/{owned['document']}.json",
    )
    assert sorted(files) == sorted(
        ["account.json", "usage.json", talk, f"{base}/knowledge_base.json", doc]
    )
    assert files["account.json"]["username"] == "alice"
    assert [key["name"] for key in files["account.json"]["api_keys"]] == ["Mine"]
    assert [day["model"] for day in files["usage.json"]["days"]] == ["gpt-4o"]
    (told,) = files[talk]["conversations"]
    assert [m["content"] for m in told["messages"]] == [
        "How do swifts sleep?",
        "Hello!",
    ]
    assert files[f"{base}/knowledge_base.json"]["name"] == "合同"
    assert files[doc]["name"] == "合同.md"
    assert re.sub(r"\s+", " ", files[doc]["text"]) == re.sub(
        r"\s+", " ", f"# 合同\n\n{TEXT}"
    )
    assert Document.objects.get().chunks_total > 1
    everything = json.dumps(files)
    alice.refresh_from_db()
    for secret in (
        *("Mallory", "sk-own-key", alice.password),
        *ApiKey.objects.values_list("hash", flat=True),
        Conversation.objects.get(pk=owned["conversation"]).api_key,
    ):
        assert secret not in everything


def test_its_conversations_can_be_imported(
    as_mallory: Client, owned: dict[str, str], tmp_path: Path
) -> None:
    run("alice", tmp_path / "alice.zip")
    files = contents(tmp_path / "alice.zip")

    made = as_mallory.post(
        "/api/conversations/import",
        json=files[f"conversations/{owned['conversation']}.json"],
    )

    (row,) = made.json()["conversations"]
    assert row["title"] == "雨燕"
    assert len(as_mallory.history(row["conversation_id"])) == 2


def test_a_dry_run_only_counts(owned: dict[str, str], tmp_path: Path) -> None:
    out, _ = run("alice", tmp_path / "alice.zip", "--dry-run")

    counts = "1 conversations, 2 messages, 1 knowledge bases, 1 documents, 1 API keys"
    assert out == f"{counts} would be written.\n"
    assert list(tmp_path.iterdir()) == []


def test_tells_how_far_it_is(alice: User, tmp_path: Path) -> None:
    for _ in range(100):
        make_conversation(alice)

    _, err = run("alice", tmp_path / "alice.zip")

    assert err == "100 files ...\n"
    assert len(contents(tmp_path / "alice.zip")) == 102


def test_replaces_no_file(alice: User, tmp_path: Path) -> None:
    path = tmp_path / "alice.zip"
    run("alice", path)
    before = path.read_bytes()

    with pytest.raises(CommandError, match="expected a new file"):
        run("alice", path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_interrupted_run_left_is_no_hindrance(
    alice: User, tmp_path: Path
) -> None:
    left = tmp_path / ".alice.zip.part"
    left.write_bytes(b"x" * 10_000)
    left.chmod(0o644)

    run("alice", tmp_path / "alice.zip")

    assert contents(tmp_path / "alice.zip")["account.json"]
    assert not left.exists()


@pytest.mark.parametrize(
    ("name", "path", "sentence"),
    [
        ("nobody", "a.zip", "There is no user 'nobody'"),
        ("alice", "gone/a.zip", "expected a new file in an existing folder"),
    ],
)
def test_what_cannot_be_done_is_said(
    alice: User, tmp_path: Path, name: str, path: str, sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        run(name, tmp_path / path)


def test_interrupted_it_leaves_nothing_and_exits_with_a_failure(tmp_path: Path) -> None:
    """As a process, with Ctrl-C while it writes to a pipe that nobody reads yet."""
    server = ServeProcess(tmp_path, config={})
    server.make_database()
    folder = tmp_path / "exports"
    folder.mkdir()
    command = [sys.executable, "-c", INTERRUPTED, "alice", str(folder / "alice.zip")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**server.environment, "DJANGO_SETTINGS_MODULE": "llmbackend.settings"},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert [path.name for path in folder.iterdir()] == [".alice.zip.part"]

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)

    assert process.returncode != 0
    assert list(folder.iterdir()) == []


# Stops within the export when the account's file is asked for, until it is told on.
INTERRUPTED = """
import signal
import sys
import django
from django.core.management import call_command
from django.db import connection

django.setup()
from accounts.models import User

User.objects.create_user("alice")
# A test run in the background passes on that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def hold(execute, sql, params, many, context):
    if "usage" in sql:
        print("writing", flush=True)
        sys.stdin.read()
    return execute(sql, params, many, context)

with connection.execute_wrapper(hold):
    call_command("export_user", *sys.argv[1:])
"""
