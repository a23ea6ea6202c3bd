"""The embedding models that can be used here."""

from __future__ import annotations

from dataclasses import dataclass

from llmbackend.chat_models import LOCAL, local_provider
from llmbackend.config import Config
from llmbackend.errors import UnknownEmbeddingModel

LOCAL_E5 = "local-e5"
LOCAL_NGRAM = "local-ngram"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModel:
    """
    A model by the name a knowledge base has for it, and what its provider calls it.

    An empty `provider` means: computed here, without one.
    """

    name: str
    provider: str = ""
    upstream_name: str = ""

    @property
    def is_remote(self) -> bool:
        return bool(self.provider)


def embedding_models(config: Config) -> list[EmbeddingModel]:
    """What can be used now: remote ones whose provider has a key, then the embedded."""
    models = [
        EmbeddingModel(name=name, provider=provider.name, upstream_name=upstream)
        for provider in config.providers
        if provider.api_key
        for name, upstream in provider.embedding_models.items()
    ]
    if local_provider(config).embeds():
        models.append(
            EmbeddingModel(name=LOCAL_E5, provider=LOCAL.name, upstream_name=LOCAL_E5)
        )
    return [*models, EmbeddingModel(name=LOCAL_NGRAM)]


def embedding_model(name: str, *, config: Config) -> EmbeddingModel:
    """The usable model of that name; "" means the default. Or UnknownEmbeddingModel."""
    usable = embedding_models(config)
    if not name:
        name = config.rag.default_embedding_model
        if name == "auto":
            return usable[0]
    found = next((model for model in usable if model.name == name), None)
    if found is None:
        names = ", ".join(model.name for model in usable)
        raise UnknownEmbeddingModel(
            f"“{name[:100]}” is no embedding model that works here; these are: {names}."
        )
    return found
