"""manage.py doctor: what works here, what does not, and why."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from llmbackend.checkup import findings

MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


class Command(BaseCommand):
    help = (
        "Looks at the configuration, secrets, database, Redis and every provider, and "
        "says what does not work; changes nothing and exits with 1 if something is "
        "broken."
    )
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        broken = 0
        for finding in findings():
            broken += finding.state == "error"
            mark = MARKS[finding.state]
            self.stdout.write(f"{mark}  {finding.subject}: {finding.said}")
        if broken:
            raise CommandError(f"{broken} of these must be mended.")
