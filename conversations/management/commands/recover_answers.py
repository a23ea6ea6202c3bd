"""manage.py recover_answers: end what dead processes left open."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from conversations.writers import forget_dead_writers, interrupt_orphans, orphans


class Command(BaseCommand):
    help = (
        "Ends as interrupted the answers whose server process has died; a running "
        "server does so by itself."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="only count them, change nothing"
        )

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        if dry_run:
            self.stdout.write(f"{orphans().count()} answers would be ended.")
            return
        ended = interrupt_orphans()
        forget_dead_writers()
        self.stdout.write(f"{ended} answers were ended.")
