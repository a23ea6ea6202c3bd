"""The bodies of knowledge base requests."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from llmbackend.fields import StringField, UuidField, WholeNumberField
from rag.sentences import Sizes

MODES = ("hybrid", "dense", "keyword")


class NewKnowledgeBaseSerializer(serializers.Serializer[Any]):
    """Smaller chunks say too little to be found; larger ones embedders cut."""

    kb_name = StringField(max_length=500)
    embedding_model = StringField(
        required=False, allow_blank=True, allow_null=True, max_length=200
    )
    chunk_size_cjk = WholeNumberField(
        default=Sizes().cjk, min_value=100, max_value=2000
    )
    chunk_size_latin = WholeNumberField(
        default=Sizes().latin, min_value=300, max_value=6000
    )
    overlap_percent = WholeNumberField(
        default=Sizes().overlap_percent, min_value=0, max_value=50
    )

    def sizes(self) -> Sizes:
        """The chunk sizes that are asked for."""
        fields = self.validated_data
        return Sizes(
            cjk=fields["chunk_size_cjk"],
            latin=fields["chunk_size_latin"],
            overlap_percent=fields["overlap_percent"],
        )


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
