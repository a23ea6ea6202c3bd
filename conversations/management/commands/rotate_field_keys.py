"""manage.py rotate_field_keys: seal stored API keys with a new key."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from conversations.models import Conversation
from llmbackend.crypto import resealed
from llmbackend.keys import add_field_key, drop_old_field_keys

AT_ONCE = 200
RESTART = (
    "A new key is in place. Restart every server process, so that all of them know it, "
    "and run this again."
)


class Command(BaseCommand):
    help = (
        "Replaces the key that seals the API keys of conversations, in two runs with a "
        "restart of the server between them; can be interrupted and run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what would be done"
        )

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        if settings.CONFIG.database.url:
            raise CommandError(
                "With database.url the key is derived from jwt.secret and cannot be "
                "replaced alone."
            )
        keys = settings.KEYS.field
        sealed = Conversation.objects.exclude(api_key="")
        if len(keys) == 1:
            if dry_run:
                self.stdout.write("A new key would be added.")
                return
            add_field_key(settings.CONFIG)
            self.stdout.write(RESTART)
        elif dry_run:
            self.stdout.write(f"{sealed.count()} stored API keys would be sealed anew.")
        else:
            self.seal_anew(keys)

    def seal_anew(self, keys: tuple[str, ...]) -> None:
        sealed = Conversation.objects.exclude(api_key="").order_by("pk")
        total, done, unreadable = sealed.count(), 0, 0
        for pk, old in sealed.values_list("pk", "api_key").iterator(AT_ONCE):
            try:
                new = resealed(old, keys=keys)
            except InvalidToken:
                unreadable += 1
                continue
            # Unless it was given anew since, by a server that knows the new key.
            Conversation.objects.filter(pk=pk, api_key=old).update(api_key=new)
            done += 1
            if done % AT_ONCE == 0:
                self.stderr.write(f"{done} of {total} ...")
        drop_old_field_keys(settings.CONFIG)
        self.stdout.write(
            f"{done} stored API keys were sealed anew; the old key is gone."
        )
        if unreadable:
            self.stdout.write(
                f"{unreadable} could not be read, before or after; their owners must "
                "give them again."
            )
