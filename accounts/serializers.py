"""The bodies of account requests."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.validators import validate_email
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
