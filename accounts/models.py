"""Who is asking."""

from __future__ import annotations

import unicodedata
import uuid
from datetime import timedelta
from typing import Any, Self

from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.models import AbstractUser, UserManager as DjangoUserManager
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.grants import EVERYTHING, Grant
from llmbackend.errors import NotFound
from llmbackend.log import request_address, request_id

USERNAME_LENGTH = 150
# A character becomes at most three when its case is folded.
FOLDED_LENGTH = 3 * USERNAME_LENGTH

APPEND_ONLY = "The audit log is append-only."
AUDIT_KEPT = timedelta(days=30)


def folded(username: str) -> str:
    """
    The form in which two usernames are compared: NFKC, without case.

    The database cannot do it: SQLite's LOWER() knows ASCII only.

    >>> folded("Ünal") == folded("ÜNAL")
    True
    """
    # Folding may take a letter apart that normalizing puts together again.
    return _normalized(_normalized(username).casefold())


def _normalized(username: str) -> str:
    return unicodedata.normalize("NFKC", username)


def validate_username(username: str) -> None:
    """Raise ValidationError for what cannot be read back: blanks around, controls."""
    stored = _normalized(username)
    if stored != stored.strip() or not stored.isprintable():
        raise ValidationError(
            _("A username has no control characters and no blanks at its ends.")
        )
    if len(stored) > USERNAME_LENGTH:
        raise ValidationError(_("This username is too long."))


class UserManager(DjangoUserManager["User"]):
    """Finds users by name regardless of case."""

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(username_folded=folded(username or ""))

    def named(self, username: str) -> User | None:
        """The user of that name, whatever its case, if there is one."""
        return self.filter(username_folded=folded(username)).first()

    def create_superuser(self, *args: Any, **kwargs: Any) -> User:
        with transaction.atomic():
            user: User = super().create_superuser(*args, **kwargs)
            detail = "is_superuser: yes"
            AuditEntry.of(
                AuditEntry.Action.ROLE_CHANGED, by=None, on=user, detail=detail
            ).save()
        return user


def limit_field(verbose_name: Any) -> models.PositiveIntegerField[Any, Any]:
    """A limit of one user's own."""
    return models.PositiveIntegerField(
        verbose_name,
        null=True,
        blank=True,
        help_text=_("Empty: what config.yaml says under limits. 0: no limit."),
    )


class User(AbstractUser):
    """A person or program with an account."""

    username = models.CharField(
        _("username"),
        max_length=USERNAME_LENGTH,
        unique=True,
        validators=[validate_username],
    )
    username_folded = models.CharField(
        _("username, folded"), max_length=FOLDED_LENGTH, unique=True, editable=False
    )
    token_version = models.PositiveIntegerField(
        _("tokens ended"),
        default=0,
        editable=False,
        help_text=_("Tokens carry it; raising it ends all that were issued before."),
    )

    # Named like the keys under `limits` in config.yaml.
    max_messages_per_minute = limit_field(_("messages per minute"))
    max_concurrent_answers = limit_field(_("answers at once"))
    max_tokens_per_day = limit_field(_("tokens per day"))
    max_tokens_per_month = limit_field(_("tokens per month"))
    max_documents = limit_field(_("documents"))
    max_document_mb = limit_field(_("MB of documents"))

    # What the request's credential allows; for whom nothing is said, everything.
    grant: Grant = EVERYTHING

    objects = UserManager()  # type: ignore[misc]

    def clean(self) -> None:
        """What forms check; there a name that is taken is a mistake, not a failure."""
        super().clean()
        namesakes = User.objects.filter(username_folded=folded(self.username or ""))
        if namesakes.exclude(pk=self.pk).exists():
            raise ValidationError({"username": _("This username is already taken.")})

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.username_folded = folded(self.username)
        # Django's mark of a new password, as against a stronger hash of the old one.
        if self._password is not None:  # type: ignore[attr-defined]
            self.token_version += 1
        super().save(*args, **kwargs)

    def check_password(self, raw_password: str | None) -> bool:
        """
        Whether it is the password; a hash of another cost than configured is renewed.

        Unlike Django's, only where it is still there: to check one takes a while, and
        meanwhile somebody may have set another password.
        """
        checked = self.password

        def renew(raw_password: str) -> None:
            hashed = make_password(raw_password)
            mine = User.objects.filter(pk=self.pk, password=checked)
            if mine.update(password=hashed):
                self.password = hashed

        return check_password(raw_password, checked, renew)

    def set_unusable_password(self) -> None:
        """Let nobody log in by a password; it ends all tokens, once it is saved."""
        super().set_unusable_password()
        if self.pk:
            self.token_version += 1


class RevokedToken(models.Model):
    """A token that was logged out before it expired."""

    jti = models.CharField(_("token id"), max_length=64, primary_key=True)
    expires_at = models.DateTimeField(_("expires"), db_index=True)

    class Meta:
        verbose_name = _("revoked token")
        verbose_name_plural = _("revoked tokens")

    def __str__(self) -> str:
        return self.jti


class IdempotencyKey(models.Model):
    """A request that must not be carried out twice, and what it made; ids only."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.CASCADE,
        related_name="idempotency_keys",
        db_index=False,  # The unique constraint begins with it.
    )
    key = models.CharField(_("key"), max_length=255)
    fingerprint = models.CharField(_("fingerprint"), max_length=64)
    made = models.TextField(_("made"), blank=True, default="")
    created_at = models.DateTimeField(_("created"), db_index=True)

    class Meta:
        verbose_name = _("idempotency key")
        verbose_name_plural = _("idempotency keys")
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="idempotency_key_once")
        ]

    def __str__(self) -> str:
        return f"key {self.pk} of user {self.user_id}"


class Tally(models.Model):
    """How often something happened since its window began."""

    key = models.CharField(_("key"), max_length=100, primary_key=True)
    count = models.PositiveIntegerField(_("count"))
    ends_at = models.BigIntegerField(
        _("ends"),
        db_index=True,
        help_text=_("When the window ends: seconds since 1970."),
    )

    class Meta:
        verbose_name = _("tally")
        verbose_name_plural = _("tallies")

    def __str__(self) -> str:
        return self.key


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    """The only door to a user's API keys."""

    def owned_by(self, user: User) -> Self:
        return self.filter(owner=user)

    def fetch(self, key_id: uuid.UUID) -> ApiKey:
        """Like get(), but raises NotFound."""
        found = self.filter(pk=key_id).first()
        if found is None:
            raise NotFound
        return found


class ApiKey(models.Model):
    """What a program signs in with for its owner; of bases and models null is all."""

    id = models.UUIDField(_("id"), primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="api_keys",
        verbose_name=_("owner"),
    )
    name = models.CharField(_("name"), max_length=200)
    hash = models.CharField(
        _("hash"), max_length=64, unique=True, help_text=_("SHA-256 of the key.")
    )
    hint = models.CharField(
        _("ends with"), max_length=4, help_text=_("How the key ends.")
    )
    scopes = models.JSONField(_("scopes"))
    knowledge_bases = models.JSONField(_("knowledge bases"), null=True)
    chat_models = models.JSONField(_("chat models"), null=True)
    created_at = models.DateTimeField(_("created"))
    expires_at = models.DateTimeField(_("expires"), null=True)
    last_used_at = models.DateTimeField(_("last used"), null=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")

    def __str__(self) -> str:
        return self.name


class AuditEntryQuerySet(models.QuerySet["AuditEntry"]):
    """Adds and reads; what is written stays until it is old."""

    def update(self, **fields: Any) -> int:
        raise TypeError(APPEND_ONLY)

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise TypeError(APPEND_ONLY)

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError(APPEND_ONLY)

    def forget(self) -> int:
        """Remove entries older than AUDIT_KEPT, which the database guards."""
        return super().delete()[0]


class AuditEntry(models.Model):
    """
    That somebody did something to something, and never what was in it.

    Ids in place of foreign keys: the entry outlives its actor and its object. Triggers
    refuse every update, and every deletion before AUDIT_KEPT is over; a migration of
    this table has to make them again.
    """

    class Action(models.TextChoices):
        LOGGED_IN = "logged_in", _("logged in")
        LOG_IN_FAILED = "log_in_failed", _("log in failed")
        LOGGED_OUT = "logged_out", _("logged out")
        TOKENS_ENDED = "tokens_ended", _("tokens ended")
        PASSWORD_SET = "password_set", _("password set")
        KEY_SET = "key_set", _("key set")
        KEY_ENDED = "key_ended", _("key ended")
        ROLE_CHANGED = "role_changed", _("role changed")
        VIEWED = "viewed", _("viewed")
        EXPORTED = "exported", _("exported")
        DELETED = "deleted", _("deleted")

    at = models.DateTimeField(_("when"))
    action = models.CharField(_("action"), max_length=32, choices=Action)
    actor_id = models.BigIntegerField(_("user id"), null=True)
    kind = models.CharField(_("kind"), max_length=100, blank=True, default="")
    object_id = models.CharField(_("object id"), max_length=64, blank=True, default="")
    detail = models.CharField(_("detail"), max_length=200, blank=True, default="")
    address = models.CharField(_("address"), max_length=45)
    request_id = models.CharField(_("request id"), max_length=32)

    objects = AuditEntryQuerySet.as_manager()

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit log")

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError(APPEND_ONLY)
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError(APPEND_ONLY)

    @classmethod
    def of(
        cls, action: str, *, by: int | None, on: models.Model | None, detail: str
    ) -> Self:
        """An entry about the present request, not stored yet."""
        return cls(
            at=timezone.now(),
            action=action,
            actor_id=by,
            kind=on._meta.label_lower if on else "",
            object_id=str(on.pk) if on else "",
            detail=detail,
            address=request_address.get(),
            request_id=request_id.get(),
        )
