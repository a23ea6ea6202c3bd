"""manage.py check_index: whether every document can be searched."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from rag.checking import (
    Fault,
    faults,
    orphaned_chunks,
    remove_orphaned_chunks,
    repair,
)


class Command(BaseCommand):
    help = (
        "Checks the vectors and terms of every ready document, and with --repair makes "
        "them anew where the text is enough for that."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--repair",
            action="store_true",
            help="mend what can be mended; what cannot fails, to be uploaded again",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="with --repair: say what would be done, change nothing",
        )

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        mend = options["repair"] and not dry_run
        found = 0
        for fault in faults():
            found += 1
            if mend:
                repair(fault)
            self.stdout.write(f"{fault.document_id}: {fault.reason}{outcome(fault)}")
        orphans = remove_orphaned_chunks() if mend else orphaned_chunks()
        if orphans:
            self.stdout.write(f"{orphans} chunks belong to documents that failed")
        if not found and not orphans:
            self.stdout.write("Every document can be searched.")
        elif not mend:
            raise CommandError(f"{found} documents are damaged; see --repair.")
        else:
            self.stdout.write("What could be mended was mended.")


def outcome(fault: Fault) -> str:
    return "" if fault.mended else " (to be uploaded again)"
