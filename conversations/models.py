"""What was said: conversations, their messages, and who writes the answers."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db import models
from django.db.models import Q

from llmbackend.errors import NotFound

if TYPE_CHECKING:
    from accounts.models import User
    from llmbackend.prepared import Parameter


def random_id() -> int:
    """A conversation id: not guessable, and exact in a JavaScript number."""
    return secrets.randbelow(2**53 - 1) + 1


def check_id(conversation_id: int) -> None:
    """Raise NotFound for a number no conversation can have."""
    if not 0 < conversation_id < 2**53:
        raise NotFound


class ConversationQuerySet(models.QuerySet["Conversation"]):
    """The only door to a user's conversations."""

    def owned_by(self, user: User | Parameter) -> Self:
        return self.filter(owner=user)

    def newest_first(self) -> Self:
        """By last turn, the latest first."""
        return self.order_by("-updated_at", "-id")

    def older_than(
        self, *, updated_at: datetime | Parameter, pk: int | Parameter
    ) -> Self:
        """What newest_first() puts after the conversation that has these."""
        not_later = self.filter(updated_at__lte=updated_at)
        return not_later.exclude(updated_at=updated_at, pk__gte=pk)

    def fetch(self, conversation_id: int) -> Conversation:
        """Like get(), but raises NotFound, also for a number no row can have."""
        check_id(conversation_id)
        found = self.filter(pk=conversation_id).first()
        if found is None:
            raise NotFound
        return found


class Conversation(models.Model):
    """An owner's titled thread with one chat model."""

    id = models.BigIntegerField(primary_key=True, default=random_id, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="conversations",
        db_index=False,  # The index below begins with it.
    )
    title = models.CharField(max_length=500)
    model = models.CharField(max_length=200)
    system_prompt = models.TextField(null=True)  # noqa: DJ001  null = the config's
    temperature = models.FloatField(null=True)
    top_p = models.FloatField(null=True)
    max_tokens = models.PositiveIntegerField(null=True)
    api_key = models.TextField(
        blank=True,
        default="",
        help_text="Encrypted, bound to the owner and the provider's origin.",
    )
    active_leaf = models.ForeignKey(
        "Message",
        on_delete=models.DO_NOTHING,  # Both go in one transaction.
        null=True,
        related_name="+",
    )
    version = models.PositiveBigIntegerField(
        default=0,
        help_text="Raised by every transaction that changes this or its messages.",
    )
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField(help_text="When the last turn began.")

    objects = ConversationQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["owner", "-updated_at", "-id"], name="conversation_list"
            ),
            models.Index(fields=["-updated_at"], name="conversation_updated"),
        ]

    def __str__(self) -> str:
        return f"conversation {self.pk}"


class Writer(models.Model):
    """A serving process, as the database knows it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    heartbeat_at = models.DateTimeField(
        db_index=True, help_text="By the database's clock; silent for 6 s is dead."
    )

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class SearchSegment(models.Model):
    """An index of some messages of a user's, deleted with the first of them."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="search_segments",
    )
    messages = models.BinaryField(help_text="Their primary keys, little-endian int64.")

    def __str__(self) -> str:
        return f"search segment {self.pk}"


class SearchBucket(models.Model):
    """What is in a segment's messages, of one part of the hashes."""

    segment = models.ForeignKey(
        SearchSegment,
        on_delete=models.CASCADE,
        related_name="buckets",
        db_index=False,  # The unique constraint begins with it.
    )
    number = models.PositiveSmallIntegerField()
    marks = models.BinaryField(help_text="Ascending, little-endian uint32.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["segment", "number"], name="search_bucket_once"
            )
        ]

    def __str__(self) -> str:
        return f"bucket {self.number} of search segment {self.segment_id}"


class Message(models.Model):
    """One utterance: a node in its conversation's tree."""

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    class Status(models.TextChoices):
        STREAMING = "streaming"
        COMPLETE = "complete"
        STOPPED = "stopped"
        TRUNCATED = "truncated"
        FAILED = "failed"
        INTERRUPTED = "interrupted"

    conversation = models.ForeignKey(
        Conversation,
        on_delete=models.CASCADE,
        related_name="messages",
        db_index=False,  # The unique constraint begins with it.
    )
    number = models.PositiveIntegerField(help_text="The wire's message_id: 1, 2, 3.")
    parent = models.ForeignKey(
        "self",
        on_delete=models.DO_NOTHING,  # A tree goes whole, with its conversation.
        null=True,
        related_name="children",
    )
    role = models.CharField(max_length=16, choices=Role)
    content = models.TextField(blank=True, default="")
    reasoning = models.TextField(blank=True, default="")
    status = models.CharField(max_length=16, choices=Status, default=Status.COMPLETE)
    finish_reason = models.CharField(max_length=64, blank=True, default="")
    error_code = models.CharField(max_length=64, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    provider = models.CharField(max_length=200, blank=True, default="")
    sources = models.JSONField(default=list, blank=True)
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    tokens_estimated = models.BooleanField(default=False)
    set_aside = models.PositiveIntegerField(
        default=0,
        help_text="Tokens of its owner's limits; they count while it is streaming.",
    )
    created_at = models.DateTimeField()
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    writer = models.ForeignKey(
        Writer, on_delete=models.SET_NULL, null=True, related_name="answers"
    )
    stop_requested = models.BooleanField(default=False)
    segment = models.ForeignKey(
        SearchSegment,
        on_delete=models.DO_NOTHING,  # Who deletes one sees to its messages.
        null=True,
        db_index=False,  # Most have none; the indexes below know both kinds apart.
        related_name="covered",
        help_text="The index that holds its text as it is; null: none does.",
    )

    class Meta:
        indexes = [
            # Who looks for the few that are not complete must not read all texts.
            models.Index(fields=["status"], name="message_status"),
            # What the hours count.
            models.Index(fields=["finished_at"], name="message_finished"),
            models.Index(
                fields=["conversation", "id"],
                condition=Q(segment=None),
                name="message_unindexed",
            ),
            models.Index(
                fields=["segment"],
                condition=Q(segment__isnull=False),
                name="message_indexed",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["conversation", "number"], name="message_number_once"
            ),
            models.UniqueConstraint(
                fields=["conversation"],
                condition=Q(status="streaming"),
                name="one_answer_at_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"message {self.number} of conversation {self.conversation_id}"


class Usage(models.Model):
    """
    What the answers of a day cost a user, by model.

    A table of its own: what was spent stays spent when a conversation is deleted, and
    a copy of one has cost nothing.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="usage",
        db_index=False,  # The unique constraint begins with it.
    )
    day = models.DateField(help_text="UTC, of the end of the answer.")
    model = models.CharField(max_length=200)
    answers = models.PositiveIntegerField(
        default=0, help_text="Those that cost anything; a continued one at each end."
    )
    estimated_answers = models.PositiveIntegerField(
        default=0, help_text="Those whose tokens nobody counted for us."
    )
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    # All that ended, by how they did: named like the statuses of messages.
    complete = models.PositiveIntegerField(default=0)
    stopped = models.PositiveIntegerField(default=0)
    truncated = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    interrupted = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "day", "model"], name="usage_of_a_day_once"
            )
        ]
        indexes = [models.Index(fields=["day"], name="usage_day")]

    def __str__(self) -> str:
        return f"usage of user {self.owner_id} on {self.day}"


class AnswerHour(models.Model):
    """How the answers went that ended within an hour that is over."""

    hour = models.DateTimeField(primary_key=True)
    statuses = models.JSONField(help_text="How many, by status.")
    failures = models.JSONField(help_text="How many, by error code.")
    first_token_p50_ms = models.PositiveIntegerField(null=True)
    first_token_p95_ms = models.PositiveIntegerField(null=True)

    def __str__(self) -> str:
        return f"hour {self.hour:%Y-%m-%d %H}"
