"""Serializer fields that take what a JSON body says, and nothing near it."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers


class StringField(serializers.CharField):
    """A JSON string; DRF's own field takes a number for one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class UuidField(serializers.UUIDField):
    """A UUID as text; DRF's own field takes any number for one."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class NumberField(serializers.FloatField):
    """A JSON number; DRF's own field takes a string or a truth value for one."""

    def to_internal_value(self, data: Any) -> float:
        if not isinstance(data, (int, float)) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class WholeNumberField(serializers.IntegerField):
    """A JSON integer; DRF's own field takes a string or a fraction for one."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return data
