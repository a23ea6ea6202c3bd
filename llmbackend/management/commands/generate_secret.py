"""manage.py generate_secret: a value for jwt.secret."""

from __future__ import annotations

import secrets
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Prints a new random secret, fit for jwt.secret; changes nothing."
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        self.stdout.write(secrets.token_urlsafe(48))
