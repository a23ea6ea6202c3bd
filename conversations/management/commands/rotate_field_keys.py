"""manage.py rotate_field_keys: seal stored API keys with a new key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.db.models import QuerySet

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
        if len(keys) == 1:
            if dry_run:
                self.stdout.write("A new key would be added.")
                return
            add_field_key(settings.CONFIG)
            self.stdout.write(RESTART)
        elif dry_run:
            self.stdout.write(
                f"{sealed().count()} stored API keys would be sealed anew."
            )
        else:
            self.seal_anew(keys)

    def seal_anew(self, keys: tuple[str, ...]) -> None:
        total, done, unreadable, last = sealed().count(), 0, 0, 0
        while True:
            with transaction.atomic():
                part = seal_some(keys, after=last)
            if part is None:
                break
            last, done = part.last, done + part.sealed
            self.stderr.write(f"{done} of {total} ...")
        last = 0
        with transaction.atomic():
            # What was copied meanwhile of one whose turn had not come. Nobody copies
            # now, and from here on all that can be copied is sealed with the new key.
            while (part := seal_some(keys, after=last)) is not None:
                last, done = part.last, done + part.sealed
                unreadable += part.unreadable
        drop_old_field_keys(settings.CONFIG)
        self.stdout.write(
            f"{done} stored API keys were sealed anew; the old key is gone."
        )
        if unreadable:
            self.stdout.write(
                f"{unreadable} could not be read, before or after; their owners must "
                "give them again."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some conversations' keys: up to which, how many were sealed or are lost."""

    last: int
    sealed: int
    unreadable: int


def sealed() -> QuerySet[Conversation]:
    return Conversation.objects.exclude(api_key="").order_by("pk")


def seal_some(keys: tuple[str, ...], *, after: int) -> Part | None:
    """
    Seal the next keys that the first of `keys` does not open; None for no more rows.

    To be called in a transaction: what is open between two, SQLite refuses to go on
    with once another has written.
    """
    rows = list(sealed().filter(pk__gt=after).values_list("pk", "api_key")[:AT_ONCE])
    if not rows:
        return None
    done, unreadable = 0, 0
    for pk, old in rows:
        if resealed_by(keys[:1], old) is not None:
            continue
        new = resealed_by(keys, old)
        if new is None:
            unreadable += 1
            continue
        Conversation.objects.filter(pk=pk).update(api_key=new)
        done += 1
    return Part(last=rows[-1][0], sealed=done, unreadable=unreadable)


def resealed_by(keys: tuple[str, ...], old: str) -> str | None:
    """A stored key sealed with the first of `keys`; None if none of them opens it."""
    try:
        return resealed(old, keys=keys)
    except InvalidToken:
        return None
