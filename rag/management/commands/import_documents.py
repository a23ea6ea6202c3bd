"""manage.py import_documents: whole folders into a knowledge base."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User, folded
from llmbackend.errors import LLMBackendError
from rag import bases
from rag.embedders import Embedding
from rag.ingestion import Added, Upload, add_document
from rag.models import KnowledgeBase
from rag.offline import embedding_on_a_thread

SUFFIXES = {".txt", ".md", ".docx", ".pdf"}
LONGEST_NAME = 500


class Command(BaseCommand):
    help = (
        "Uploads files, and those in folders, to a user's knowledge base; what is "
        "there already is left alone, so that it can be run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, help="files and folders")
        parser.add_argument("--user", required=True, help="whose base it is")
        parser.add_argument(
            "--kb", required=True, help="the base's id, or its name if only one has it"
        )
        parser.add_argument(
            "--create", action="store_true", help="make the base if there is none"
        )
        parser.add_argument(
            "--embedding-model", default="", help="for --create; empty: the default"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only list the files"
        )

    def handle(self, *, paths: list[Path], user: str, kb: str, **options: Any) -> None:
        files = list(files_in(paths))
        owner = User.objects.filter(username_folded=folded(user)).first()
        if owner is None:
            raise CommandError(f"There is no user {user!r}.")
        base = base_named(owner, kb)
        if base is None and not options["create"]:
            raise CommandError(f"{user} has no knowledge base {kb!r}; see --create.")
        if base is None and not 0 < len(kb.strip()) <= LONGEST_NAME:
            raise CommandError(f"A base's name has 1 to {LONGEST_NAME} characters.")
        if options["dry_run"]:
            self.stdout.write("\n".join(readable(str(path)) for path in files))
            return
        if base is None:
            model = options["embedding_model"]
            try:
                base = bases.create(owner=owner, name=kb, embedding_model_name=model)
            except LLMBackendError as exc:
                raise CommandError(str(exc)) from exc
        with embedding_on_a_thread(settings.CONFIG) as embedding:
            failed = self.upload_all(owner, base, files, embedding)
        if failed:
            raise CommandError(f"{failed} of {len(files)} files were not taken.")

    def upload_all(
        self,
        owner: User,
        base: KnowledgeBase,
        files: list[Path],
        embedding: Embedding,
    ) -> int:
        """Upload one after the other; how many could not be."""
        failed = 0
        for number, path in enumerate(files, start=1):
            shown = readable(str(path))
            self.stderr.write(f"{number} of {len(files)}: {shown}")
            try:
                added = upload_one(owner, base, path, embedding)
            except (LLMBackendError, OSError) as exc:
                failed += 1
                self.stdout.write(f"{shown}: {exc}")
            else:
                known = ", there already" if added.duplicate else ""
                self.stdout.write(f"{shown}: {added.chunks} chunks{known}")
        return failed


def upload_one(
    owner: User, base: KnowledgeBase, path: Path, embedding: Embedding
) -> Added:
    with path.open("rb") as file:
        return add_document(
            owner=owner,
            knowledge_base_id=base.pk,
            upload=Upload(name=readable(path.name), encoding="", file=file),
            embedding=embedding,
        )


def readable(name: str) -> str:
    """A file's name as it can be shown and stored, like that of an upload."""
    text = os.fsencode(name).decode(errors="replace")
    return "".join(character for character in text if character.isprintable())


def files_in(paths: list[Path]) -> Iterator[Path]:
    """The files named, and those of known kinds in the folders; or CommandError."""
    for path in paths:
        if path.is_dir():
            inside = (each for each in path.rglob("*") if each.is_file())
            yield from sorted(p for p in inside if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            yield path
        else:
            raise CommandError(f"{path}: there is no such file or folder.")


def base_named(owner: User, name: str) -> KnowledgeBase | None:
    """A user's base by id or name; None if there is none, CommandError if several."""
    mine = KnowledgeBase.objects.owned_by(owner)
    try:
        return mine.filter(pk=uuid.UUID(name)).first()
    except ValueError:
        found = list(mine.filter(name=name)[:2])
    if len(found) > 1:
        raise CommandError(f"Several knowledge bases are named {name!r}; give the id.")
    return found[0] if found else None
