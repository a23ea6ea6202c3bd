"""manage.py index_messages: make all messages quick to search."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Count

from accounts.models import User, folded
from conversations import segments
from conversations.models import Message


class Command(BaseCommand):
    help = (
        "Indexes the messages of users who have many, which searches otherwise do "
        "little by little; can be interrupted and run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user", help="only this user's messages")
        parser.add_argument(
            "--dry-run", action="store_true", help="only count them, change nothing"
        )

    def handle(self, *, user: str | None, dry_run: bool, **options: Any) -> None:
        waiting = waiting_by_owner(only=user)
        total = sum(count - count % segments.MESSAGES for count in waiting.values())
        if dry_run:
            self.stdout.write(f"About {total} messages would be indexed.")
            return
        done = 0
        for owner in User.objects.filter(pk__in=waiting).order_by("pk"):
            for taken in segments.index_all(owner):
                done += taken
                self.stderr.write(f"{done} of {total} ...")
        self.stdout.write(f"{done} messages were indexed.")


def waiting_by_owner(*, only: str | None) -> dict[int, int]:
    """How many messages wait, by who has enough of them; raises CommandError."""
    found = Message.objects.filter(segment=None)
    if only is not None:
        user = User.objects.filter(username_folded=folded(only)).first()
        if user is None:
            raise CommandError(f"There is no user {only!r}.")
        found = found.filter(conversation__owner=user)
    counted = found.values("conversation__owner").annotate(count=Count("pk"))
    enough = counted.filter(count__gte=segments.MESSAGES)
    return dict(enough.values_list("conversation__owner", "count"))
