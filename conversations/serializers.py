"""The bodies of conversation requests."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from llmbackend.fields import StringField


def validate_api_key(key: str) -> None:
    """A key travels in a header: printable ASCII only."""
    if not (key.isascii() and key.isprintable()):
        raise serializers.ValidationError("Must be printable ASCII.")


class NewConversationSerializer(serializers.Serializer[Any]):
    title = StringField(max_length=500)
    model = StringField(max_length=200)
    api_key = StringField(
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=512,
        validators=[validate_api_key],
    )


class BranchSerializer(serializers.Serializer[Any]):
    message_id = serializers.IntegerField(min_value=1, max_value=2**31 - 1)
