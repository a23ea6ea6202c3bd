"""The bodies of account requests."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.validators import validate_email
from rest_framework import serializers

from accounts.api_keys import Wanted
from accounts.grants import SCOPES
from accounts.models import USERNAME_LENGTH, validate_username
from llmbackend.fields import StringField, UuidField, WholeNumberField

# The end of the year 9999: later dates cannot be written.
LATEST_EXPIRY = 253402300799


class RegistrationSerializer(serializers.Serializer[Any]):
    username = StringField(
        max_length=USERNAME_LENGTH,
        trim_whitespace=False,
        validators=[validate_username],
    )
    password = StringField(trim_whitespace=False, validators=[validate_password])


class CredentialsSerializer(serializers.Serializer[Any]):
    username = StringField(max_length=1000, trim_whitespace=False)
    password = StringField(max_length=10_000, trim_whitespace=False)


class PasswordSerializer(serializers.Serializer[Any]):
    password = StringField(max_length=10_000, trim_whitespace=False)


class NewPasswordSerializer(PasswordSerializer):
    new_password = StringField(trim_whitespace=False, validators=[validate_password])


class ProfileSerializer(serializers.Serializer[Any]):
    email = StringField(
        max_length=254, required=False, allow_blank=True, validators=[validate_email]
    )
    first_name = StringField(max_length=150, required=False, allow_blank=True)
    last_name = StringField(max_length=150, required=False, allow_blank=True)


class RefreshSerializer(serializers.Serializer[Any]):
    refresh = StringField(max_length=10_000)


class NewApiKeySerializer(serializers.Serializer[Any]):
    """Of bases and models null, like nothing said, is all; a list is those in it."""

    name = StringField(max_length=200)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(SCOPES), allow_empty=False, max_length=len(SCOPES)
    )
    kb_ids = serializers.ListField(
        child=UuidField(), default=None, allow_null=True, max_length=100
    )
    models = serializers.ListField(
        child=StringField(max_length=200), default=None, allow_null=True, max_length=100
    )
    expires_time = WholeNumberField(
        default=None, allow_null=True, max_value=LATEST_EXPIRY
    )

    def validate_scopes(self, scopes: list[str]) -> list[str]:
        return [scope for scope in SCOPES if scope in scopes]

    def validate_expires_time(self, expires_time: int | None) -> int | None:
        if expires_time is not None and expires_time <= time.time():
            raise serializers.ValidationError("Must be in the future.")
        return expires_time

    def wanted(self) -> Wanted:
        """The key that is asked for."""
        fields = self.validated_data
        expiry = fields["expires_time"]
        return Wanted(
            name=fields["name"],
            scopes=fields["scopes"],
            knowledge_bases=fields["kb_ids"],
            chat_models=fields["models"],
            expires_at=None if expiry is None else datetime.fromtimestamp(expiry, UTC),
        )
