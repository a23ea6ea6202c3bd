"""manage.py prune_audit_log: forget what was done long ago."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from accounts import audit
from accounts.models import AUDIT_KEPT, AuditEntry

REPORT_EVERY = 10_000
# By its own clock the database refuses what is younger than AUDIT_KEPT.
CLOCKS_DIFFER = timedelta(minutes=5)
_DAYS = {"d": 1, "w": 7}


class Command(BaseCommand):
    help = "Removes from the audit log what is older than a given time, 30d at least."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=age,
            required=True,
            metavar="365d",
            help="days (365d) or weeks (52w)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only count them, change nothing"
        )

    def handle(self, *, older_than: timedelta, dry_run: bool, **options: Any) -> None:
        before = timezone.now() - max(older_than, AUDIT_KEPT + CLOCKS_DIFFER)
        if dry_run:
            count = AuditEntry.objects.filter(at__lt=before).count()
            self.stdout.write(f"{count} entries would be removed.")
            return
        removed = 0
        for number in audit.forget_before(before):
            removed += number
            if removed % REPORT_EVERY == 0:
                self.stderr.write(f"{removed} removed ...")
        self.stdout.write(f"{removed} entries were removed.")


def age(text: str) -> timedelta:
    """`365d` or `52w` as a time."""
    match = re.fullmatch(r"(\d{1,5})([dw])", text)
    if match is None:
        raise argparse.ArgumentTypeError("must be like 365d or 52w")
    asked = timedelta(days=int(match[1]) * _DAYS[match[2]])
    if asked < AUDIT_KEPT:
        raise argparse.ArgumentTypeError("must be 30d or more")
    return asked
