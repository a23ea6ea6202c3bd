"""manage.py changepassword: Django's, noted in the audit log."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword
from django.core.management.base import CommandError

from accounts import audit
from accounts.audit import Action
from accounts.models import User


class Command(changepassword.Command):
    help = "Sets a new password for a user, which ends all their tokens."

    def handle(self, *args: Any, **options: Any) -> str | None:
        name = options["username"] or getpass.getuser()
        user = User.objects.named(name)
        if user is None:
            raise CommandError(f"There is no user {name!r}.")
        said = super().handle(*args, **{**options, "username": user.username})
        # Reached only where it succeeded.
        audit.record(Action.PASSWORD_SET, by=None, on=user)
        return said
