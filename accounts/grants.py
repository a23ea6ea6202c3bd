"""What a request may do: with a log-in everything, with an API key what that allows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from llmbackend.errors import Forbidden
from llmbackend.patterns import matches

CHAT = "chat"
KB_READ = "kb:read"
KB_WRITE = "kb:write"
ACCOUNT = "account"
SCOPES = (CHAT, KB_READ, KB_WRITE, ACCOUNT)
# What no key opens: else a key could make itself another that opens more.
LOG_IN = "a log-in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What may be done, with which knowledge bases and chat models; None is all."""

    scopes: frozenset[str] | None = None
    knowledge_bases: frozenset[uuid.UUID] | None = None
    chat_models: tuple[str, ...] | None = None

    def require(self, scope: str) -> None:
        """Raise Forbidden unless `scope`, or LOG_IN, is granted."""
        if self.scopes is None or scope in self.scopes:
            return
        if scope == LOG_IN:
            raise Forbidden("An API key is not enough for this; log in.")
        raise Forbidden(f"This API key does not have the scope “{scope}”.")

    def require_model(self, model: str) -> None:
        """Raise Forbidden unless the chat model may be used."""
        if self.chat_models is None:
            return
        if not any(matches(model, pattern) for pattern in self.chat_models):
            raise Forbidden(f"This API key may not use the model “{model}”.")

    def require_every_base(self) -> None:
        """Raise Forbidden where only some bases are granted: a new one is not."""
        if self.knowledge_bases is not None:
            raise Forbidden("This API key is limited to certain knowledge bases.")


EVERYTHING = Grant()
