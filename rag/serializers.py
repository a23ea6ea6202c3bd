"""The bodies of knowledge base requests."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers

from llmbackend.fields import StringField

MODES = ("hybrid", "dense", "keyword")


class NewKnowledgeBaseSerializer(serializers.Serializer[Any]):
    kb_name = StringField(max_length=500)
    embedding_model = StringField(
        required=False, allow_blank=True, allow_null=True, max_length=200
    )


class UuidField(serializers.UUIDField):
    """A UUID as text; DRF's own field takes any number for one."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class WholeNumberField(serializers.IntegerField):
    """A JSON integer; DRF's own field takes a string or a fraction for one."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return data


class KnowledgeBaseSerializer(serializers.Serializer[Any]):
    kb_id = UuidField()


class DocumentSerializer(KnowledgeBaseSerializer):
    doc_id = UuidField()


class UploadSerializer(KnowledgeBaseSerializer):
    file = serializers.FileField(allow_empty_file=True, max_length=None)
    encoding = StringField(required=False, allow_blank=True, max_length=64)


class QuestionSerializer(KnowledgeBaseSerializer):
    query = StringField(max_length=10_000)
    top_k = WholeNumberField(default=5, min_value=1, max_value=50)
    mode = serializers.ChoiceField(MODES, default="hybrid")
