"""manage.py changepassword: Django's, noted in the audit log."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword

from accounts import audit
from accounts.audit import Action
from accounts.models import User


class Command(changepassword.Command):
    help = "Sets a new password for a user, which ends all their tokens."

    def handle(self, *args: Any, **options: Any) -> str | None:
        said = super().handle(*args, **options)
        # Reached only where it succeeded.
        user = User.objects.get_by_natural_key(options["username"] or getpass.getuser())
        audit.record(Action.PASSWORD_SET, by=None, on=user)
        return said
