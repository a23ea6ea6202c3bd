"""The bodies of conversation requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from conversations.search import Place
from conversations.words import words_of
from llmbackend.fields import NumberField, StringField, WholeNumberField

LONGEST_SYSTEM_PROMPT = 32_000
MOST_TOKENS = 1_000_000
LONGEST_PAGE = 200
LONGEST_QUERY = 200
USUAL_PERIOD = 30
LONGEST_PERIOD = 366


def validate_api_key(key: str) -> None:
    """A key travels in a header: printable ASCII only."""
    if not (key.isascii() and key.isprintable()):
        raise serializers.ValidationError("Must be printable ASCII.")


class ApiKeyField(StringField):
    """An optional key; null and empty are none."""

    def __init__(self) -> None:
        super().__init__(
            required=False,
            allow_blank=True,
            allow_null=True,
            max_length=512,
            validators=[validate_api_key],
        )


class NewConversationSerializer(serializers.Serializer[Any]):
    title = StringField(
        required=False, allow_blank=True, allow_null=True, max_length=500
    )
    model = StringField(max_length=200)
    api_key = ApiKeyField()


class SettingsSerializer(serializers.Serializer[Any]):
    """What a conversation asks of its model; null leaves it to the configuration."""

    system_prompt = StringField(
        required=False,
        allow_null=True,
        allow_blank=True,
        trim_whitespace=False,
        max_length=LONGEST_SYSTEM_PROMPT,
    )
    temperature = NumberField(required=False, allow_null=True, min_value=0, max_value=2)
    top_p = NumberField(required=False, allow_null=True, min_value=0, max_value=1)
    max_tokens = WholeNumberField(
        required=False, allow_null=True, min_value=1, max_value=MOST_TOKENS
    )


class ChangesSerializer(SettingsSerializer):
    """What is not given stays."""

    title = StringField(required=False, max_length=500)
    model = StringField(required=False, max_length=200)
    api_key = ApiKeyField()


class BranchSerializer(serializers.Serializer[Any]):
    message_id = serializers.IntegerField(min_value=1)


class PageSerializer(serializers.Serializer[Any]):
    """Of a query string; without a limit there is no limit."""

    limit = serializers.IntegerField(
        required=False, min_value=1, max_value=LONGEST_PAGE
    )

    @classmethod
    def fields_of(cls, query: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for, mostly nothing; raises ValidationError."""
        if not query:
            return {}
        asked = cls(data=query)
        asked.is_valid(raise_exception=True)
        return dict(asked.validated_data)


class ListSerializer(PageSerializer):
    before = serializers.IntegerField(required=False, min_value=1, max_value=2**53 - 1)


class SearchSerializer(serializers.Serializer[Any]):
    q = serializers.CharField(max_length=LONGEST_QUERY)
    limit = serializers.IntegerField(default=20, min_value=1, max_value=LONGEST_PAGE)
    before = serializers.RegexField(r"^\d{1,16}(-\d{1,10})?$", required=False)

    def validate_q(self, query: str) -> list[str]:
        words = words_of(query)
        if not words:
            raise serializers.ValidationError("Must hold a letter or a digit.")
        return words

    def validate_before(self, before: str) -> Place:
        conversation_id, _, message_id = before.partition("-")
        return Place(int(conversation_id), int(message_id) if message_id else None)


class ExportSerializer(serializers.Serializer[Any]):
    format = serializers.ChoiceField(["json", "md"], required=False)


class HistorySerializer(PageSerializer):
    before_message_id = serializers.IntegerField(required=False, min_value=1)


class PeriodSerializer(serializers.Serializer[Any]):
    """Days (UTC), both included; without any, the last thirty up to today."""

    since = serializers.DateField(required=False)
    until = serializers.DateField(required=False)

    def validate(self, attrs: dict[str, date]) -> dict[str, date]:
        until = attrs.get("until") or timezone.now().date()
        since = attrs.get("since")
        if since is None:
            # The calendar begins in the year 1.
            days = min(USUAL_PERIOD - 1, until.toordinal() - 1)
            since = until - timedelta(days=days)
        if since > until:
            raise serializers.ValidationError("since: must not be after until.")
        if (until - since).days >= LONGEST_PERIOD:
            raise serializers.ValidationError(
                f"since: must be less than {LONGEST_PERIOD} days before until."
            )
        return {"since": since, "until": until}
