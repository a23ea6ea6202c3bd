"""manage.py delete_user: an account, and everything that is its owner's."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import lifecycle
from accounts.models import User, folded


class Command(BaseCommand):
    help = (
        "Removes a user with all conversations, knowledge bases and keys; answers that "
        "are being written end first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="only say if there is such a user",
        )

    def handle(self, *, username: str, dry_run: bool, **options: Any) -> None:
        user = User.objects.filter(username_folded=folded(username)).first()
        if user is None:
            raise CommandError(f"There is no user {username!r}.")
        if dry_run:
            self.stdout.write(f"{user.username} would be removed.")
            return
        lifecycle.delete(user, by=None)
        self.stdout.write(f"{user.username} was removed.")
