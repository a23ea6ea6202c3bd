"""The bodies of account requests."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.password_validation import validate_password
from rest_framework import serializers

from accounts.models import USERNAME_LENGTH, validate_username
from llmbackend.fields import StringField


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


class RefreshSerializer(serializers.Serializer[Any]):
    refresh = StringField(max_length=10_000)
