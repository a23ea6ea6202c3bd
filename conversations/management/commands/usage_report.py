"""manage.py usage_report: what answers cost, and how they ended."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from conversations.usage import COUNTED, Totals, totals_since


class Command(BaseCommand):
    help = (
        "Prints how many answers ended how since a day, and the tokens they cost, by "
        "user or by model."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--by", choices=("user", "model"), required=True, help="what a line is of"
        )
        parser.add_argument(
            "--since",
            type=day,
            required=True,
            metavar="2026-11-01",
            help="the first day (UTC)",
        )

    def handle(self, *, by: str, since: date, **options: Any) -> None:
        self.stderr.write(f"Answers that ended since {since} (UTC), by {by} ...")
        rows = totals_since(since, by=by)
        counts = [row.counts for row in rows]
        sums = [sum(column) for column in zip(*counts, strict=True)]
        rows.append(Totals(name="(total)", counts=sums or [0] * len(COUNTED)))
        # Names stand last: nobody knows how wide they are on a screen.
        lines = [[*map(str, row.counts), row.name] for row in rows]
        self.stdout.write("\n".join(aligned([[*COUNTED, by], *lines])))


def day(text: str) -> date:
    """`2026-11-01` as a day."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a day like 2026-11-01") from None


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, all but the last flush right."""
    *numbers, names = zip(*lines, strict=True)
    flush = [
        [text.rjust(max(map(len, column))) for text in column] for column in numbers
    ]
    return ["  ".join(line) for line in zip(*flush, names, strict=True)]
