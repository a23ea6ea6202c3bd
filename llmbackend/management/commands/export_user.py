"""manage.py export_user: everything that is one user's, in one file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import ApiKey, User, folded
from accounts.portable import account
from conversations.models import Conversation, Message
from conversations.portable import document as talk, portable
from conversations.usage import spent_by_day
from rag.models import Document, KnowledgeBase
from rag.portable import document, knowledge_base

REPORT_EVERY = 100


class Command(BaseCommand):
    help = (
        "Writes what is one user's to a zip of JSON files: account, usage, "
        "conversations and the texts of documents; no password and no key."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("path", type=Path, help="a file that does not exist yet")
        parser.add_argument(
            "--dry-run", action="store_true", help="only count what would be written"
        )

    def handle(
        self, *, username: str, path: Path, dry_run: bool, **options: Any
    ) -> None:
        user = User.objects.filter(username_folded=folded(username)).first()
        if user is None:
            raise CommandError(f"There is no user {username!r}.")
        try:
            if path.exists() or not path.parent.is_dir():
                problem = "expected a new file in an existing folder"
                raise CommandError(f"{path}: {problem}.")
            if dry_run:
                self.stdout.write(f"{counted(user)} would be written.")
                return
            self.write_to(path, user)
        except OSError as exc:
            problem = f"cannot be written: {exc.strerror}"
            raise CommandError(f"{path}: {problem}.") from exc
        self.stdout.write(f"The export of {user.username} is complete: {path}")

    def write_to(self, path: Path, user: User) -> None:
        draft = path.with_name(f".{path.name}.part")
        # What an interrupted run left goes; nobody else may read this one.
        draft.unlink(missing_ok=True)
        opened = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with (
                os.fdopen(opened, "w+b") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for number, (name, content) in enumerate(everything_of(user), start=1):
                    written = json.dumps(content, ensure_ascii=False, indent=1)
                    archive.writestr(name, written)
                    if number % REPORT_EVERY == 0:
                        self.stderr.write(f"{number} files ...")
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)


def counted(user: User) -> str:
    """How much there is, in words."""
    counts = {
        "conversations": Conversation.objects.owned_by(user),
        "messages": Message.objects.filter(conversation__owner=user),
        "knowledge bases": KnowledgeBase.objects.owned_by(user),
        "documents": Document.objects.owned_by(user),
        "API keys": ApiKey.objects.owned_by(user),
    }
    return ", ".join(f"{rows.count()} {what}" for what, rows in counts.items())


def everything_of(user: User) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files, one in memory at a time: names and contents."""
    yield "account.json", account(user)
    yield "usage.json", {"days": usage(user)}
    mine = Conversation.objects.owned_by(user)
    for pk in mine.order_by("created_at", "pk").values_list("pk", flat=True):
        # One that was deleted since is none of theirs any more.
        conversation = mine.filter(pk=pk).first()
        if conversation is not None:
            yield f"conversations/{pk}.json", talk(portable(conversation))
    for base in KnowledgeBase.objects.owned_by(user).order_by("created_at", "pk"):
        folder = f"knowledge_bases/{base.pk}"
        yield f"{folder}/knowledge_base.json", knowledge_base(base)
        for one in base.documents.order_by("created_at", "pk"):
            yield f"{folder}/documents/{one.pk}.json", document(one)


def usage(user: User) -> list[dict[str, Any]]:
    spent = spent_by_day(owner=user, since=date.min, until=date.max)
    return [
        {
            "day": row.day.isoformat(),
            "model": row.model,
            **{name: getattr(row.spent, name) for name in row.spent.__slots__},
        }
        for row in spent
    ]
