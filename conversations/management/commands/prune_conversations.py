"""manage.py prune_conversations: remove what nobody has used for long."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import User, folded
from conversations import lifecycle
from conversations.models import Conversation, ConversationQuerySet
from llmbackend.errors import NotFound

REPORT_EVERY = 100
_UNITS = {"h": 1, "d": 24, "w": 24 * 7}


class Command(BaseCommand):
    help = (
        "Removes, with their messages, conversations whose last turn is older than a "
        "given time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=age,
            required=True,
            metavar="90d",
            help="hours (12h), days (90d) or weeks (8w) since the last turn",
        )
        parser.add_argument("--user", help="only this user's conversations")
        parser.add_argument(
            "--dry-run", action="store_true", help="only count them, change nothing"
        )

    def handle(
        self, *, older_than: timedelta, user: str | None, dry_run: bool, **options: Any
    ) -> None:
        found = stale(older_than, owner=user)
        ids = list(found.values_list("pk", flat=True))
        if dry_run:
            self.stdout.write(f"{len(ids)} conversations would be removed.")
            return
        removed = 0
        for conversation_id in ids:
            # Asked again: it may have been used, or removed, since it was listed.
            try:
                lifecycle.remove(found.all(), conversation_id=conversation_id, by=None)
            except NotFound:
                continue
            removed += 1
            if removed % REPORT_EVERY == 0:
                self.stderr.write(f"{removed} of {len(ids)} removed ...")
        self.stdout.write(f"{removed} conversations were removed.")


def age(text: str) -> timedelta:
    """`90d`, `12h` or `8w` as a time."""
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError("must be like 12h, 90d or 8w")
    return timedelta(hours=int(match[1]) * _UNITS[match[2]])


def stale(older_than: timedelta, *, owner: str | None) -> ConversationQuerySet:
    """The conversations without a turn for so long; raises CommandError."""
    found = Conversation.objects.filter(updated_at__lt=timezone.now() - older_than)
    if owner is None:
        return found
    user = User.objects.filter(username_folded=folded(owner)).first()
    if user is None:
        raise CommandError(f"There is no user {owner!r}.")
    return found.filter(owner=user)
