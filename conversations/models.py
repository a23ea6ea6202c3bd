"""What was said: conversations, their messages, and who writes the answers."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

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

    id = models.BigIntegerField(
        _("id"), primary_key=True, default=random_id, editable=False
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        on_delete=models.CASCADE,
        related_name="conversations",
        db_index=False,  # The index below begins with it.
    )
    title = models.CharField(_("title"), max_length=500)
    model = models.CharField(_("model"), max_length=200)
    system_prompt = models.TextField(_("system prompt"), null=True)  # noqa: DJ001  The config's.
    temperature = models.FloatField(_("temperature"), null=True)
    top_p = models.FloatField(_("top_p"), null=True)
    max_tokens = models.PositiveIntegerField(_("max_tokens"), null=True)
    api_key = models.TextField(
        _("API key"),
        blank=True,
        default="",
        help_text=_("Encrypted, bound to the owner and the provider's origin."),
    )
    active_leaf = models.ForeignKey(
        "Message",
        verbose_name=_("active message"),
        on_delete=models.DO_NOTHING,  # Both go in one transaction.
        null=True,
        related_name="+",
    )
    version = models.PositiveBigIntegerField(
        _("version"),
        default=0,
        help_text=_("Raised by every transaction that changes this or its messages."),
    )
    created_at = models.DateTimeField(_("created"))
    updated_at = models.DateTimeField(
        _("last turn"), help_text=_("When the last turn began.")
    )

    objects = ConversationQuerySet.as_manager()

    class Meta:
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        indexes = [
            models.Index(
                fields=["owner", "-updated_at", "-id"], name="conversation_list"
            ),
            models.Index(fields=["-updated_at", "-id"], name="conversation_updated"),
        ]

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"


class Writer(models.Model):
    """A serving process, as the database knows it."""

    id = models.UUIDField(_("id"), primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process"))
    heartbeat_at = models.DateTimeField(
        _("heartbeat"),
        db_index=True,
        help_text=_("By the database's clock; silent for 6 s is dead."),
    )

    class Meta:
        verbose_name = _("writer")
        verbose_name_plural = _("writers")

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class SearchSegment(models.Model):
    """An index of some messages of a user's, deleted with the first of them."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        on_delete=models.CASCADE,
        related_name="search_segments",
    )
    messages = models.BinaryField(
        _("messages"), help_text=_("Their primary keys, little-endian int64.")
    )

    class Meta:
        verbose_name = _("search segment")
        verbose_name_plural = _("search segments")

    def __str__(self) -> str:
        return f"search segment {self.pk}"


class SearchBucket(models.Model):
    """What is in a segment's messages, of one part of the hashes."""

    segment = models.ForeignKey(
        SearchSegment,
        verbose_name=_("search segment"),
        on_delete=models.CASCADE,
        related_name="buckets",
        db_index=False,  # The unique constraint begins with it.
    )
    number = models.PositiveSmallIntegerField(_("number"))
    marks = models.BinaryField(
        _("marks"), help_text=_("Ascending, little-endian uint32.")
    )

    class Meta:
        verbose_name = _("search bucket")
        verbose_name_plural = _("search buckets")
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
        USER = "user", _("user")
        ASSISTANT = "assistant", _("assistant")

    class Status(models.TextChoices):
        STREAMING = "streaming", _("streaming")
        COMPLETE = "complete", _("complete")
        STOPPED = "stopped", _("stopped")
        TRUNCATED = "truncated", _("truncated")
        FAILED = "failed", _("failed")
        INTERRUPTED = "interrupted", _("interrupted")

    conversation = models.ForeignKey(
        Conversation,
        verbose_name=_("conversation"),
        on_delete=models.CASCADE,
        related_name="messages",
        db_index=False,  # The unique constraint begins with it.
    )
    number = models.PositiveIntegerField(
        _("number"), help_text=_("The wire's message_id: 1, 2, 3.")
    )
    parent = models.ForeignKey(
        "self",
        verbose_name=_("parent"),
        on_delete=models.DO_NOTHING,  # A tree goes whole, with its conversation.
        null=True,
        related_name="children",
    )
    role = models.CharField(_("role"), max_length=16, choices=Role)
    content = models.TextField(_("content"), blank=True, default="")
    reasoning = models.TextField(_("reasoning"), blank=True, default="")
    status = models.CharField(
        _("status"), max_length=16, choices=Status, default=Status.COMPLETE
    )
    finish_reason = models.CharField(
        _("finish reason"), max_length=64, blank=True, default=""
    )
    error_code = models.CharField(
        _("error code"), max_length=64, blank=True, default=""
    )
    model = models.CharField(_("model"), max_length=200, blank=True, default="")
    provider = models.CharField(_("provider"), max_length=200, blank=True, default="")
    # The base the answer was to rest on, though nothing may have been found there. No
    # foreign key: the base may be deleted, and this app knows none.
    knowledge_base_id = models.UUIDField(_("knowledge base"), null=True)
    sources = models.JSONField(_("sources"), default=list, blank=True)
    prompt_tokens = models.PositiveIntegerField(_("prompt tokens"), null=True)
    completion_tokens = models.PositiveIntegerField(_("answer tokens"), null=True)
    tokens_estimated = models.BooleanField(_("tokens estimated"), default=False)
    set_aside = models.PositiveIntegerField(
        _("tokens set aside"),
        default=0,
        help_text=_("Of its owner's limits; they count while it is streaming."),
    )
    created_at = models.DateTimeField(_("created"))
    first_token_at = models.DateTimeField(_("first token"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    writer = models.ForeignKey(
        Writer,
        verbose_name=_("writer"),
        on_delete=models.SET_NULL,
        null=True,
        related_name="answers",
    )
    stop_requested = models.BooleanField(_("stop requested"), default=False)
    segment = models.ForeignKey(
        SearchSegment,
        verbose_name=_("search segment"),
        on_delete=models.DO_NOTHING,  # Who deletes one sees to its messages.
        null=True,
        db_index=False,  # Most have none; the indexes below know both kinds apart.
        related_name="covered",
        help_text=_("The index that holds its text as it is; null: none does."),
    )

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
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
        return f"{self._meta.verbose_name} {self.conversation_id}/{self.number}"


class Usage(models.Model):
    """
    What the answers of a day cost a user, by model.

    A table of its own: what was spent stays spent when a conversation is deleted, and
    a copy of one has cost nothing.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        on_delete=models.CASCADE,
        related_name="usage",
        db_index=False,  # The unique constraint begins with it.
    )
    day = models.DateField(_("day"), help_text=_("UTC, of the end of the answer."))
    model = models.CharField(_("model"), max_length=200)
    answers = models.PositiveIntegerField(
        _("answers"),
        default=0,
        help_text=_("Those that cost anything; a continued one at each end."),
    )
    estimated_answers = models.PositiveIntegerField(
        _("estimated answers"),
        default=0,
        help_text=_("Those whose tokens nobody counted for us."),
    )
    prompt_tokens = models.PositiveBigIntegerField(_("prompt tokens"), default=0)
    completion_tokens = models.PositiveBigIntegerField(_("answer tokens"), default=0)
    # All that ended, by how they did: named like the statuses of messages.
    complete = models.PositiveIntegerField(_("complete"), default=0)
    stopped = models.PositiveIntegerField(_("stopped"), default=0)
    truncated = models.PositiveIntegerField(_("truncated"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    interrupted = models.PositiveIntegerField(_("interrupted"), default=0)

    class Meta:
        verbose_name = _("usage")
        verbose_name_plural = _("usage")
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

    hour = models.DateTimeField(_("hour"), primary_key=True)
    statuses = models.JSONField(_("statuses"), help_text=_("How many, by status."))
    failures = models.JSONField(_("failures"), help_text=_("How many, by error code."))
    first_token_p50_ms = models.PositiveIntegerField(
        _("first token, p50, ms"), null=True
    )
    first_token_p95_ms = models.PositiveIntegerField(
        _("first token, p95, ms"), null=True
    )

    class Meta:
        verbose_name = _("hour of answers")
        verbose_name_plural = _("hours of answers")

    def __str__(self) -> str:
        return f"hour {self.hour:%Y-%m-%d %H}"
