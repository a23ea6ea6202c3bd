"""Conversations begin and go."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import idempotency
from accounts.idempotency import Once
from accounts.models import User
from conversations import history
from conversations.models import Conversation, ConversationQuerySet
from llmbackend.chat_models import usable_provider_for
from llmbackend.config import Provider
from llmbackend.crypto import origin_of, seal


def create(
    *, owner: User, title: str, model: str, api_key: str, key: Once | None = None
) -> Conversation:
    """
    A new conversation; the API key, if any, is sealed for the model's provider.

    Where the request of `key` made one before, that one. Raises UnknownModel,
    ModelNotInstalled, Forbidden for a model that is not granted, IdempotencyMismatch,
    and NotFound when it was deleted since.
    """
    owner.grant.require_model(model)
    provider = usable_provider_for(model, config=settings.CONFIG)
    with transaction.atomic():
        made = idempotency.claim(owner, key)
        if made is not None:
            return Conversation.objects.owned_by(owner).fetch(int(made))
        now = timezone.now()
        conversation = Conversation.objects.create(
            owner=owner,
            title=title,
            model=model,
            api_key=sealed(api_key, owner=owner, provider=provider),
            created_at=now,
            updated_at=now,
        )
        idempotency.settle(owner, key, made=str(conversation.pk))
    return conversation


def sealed(api_key: str, *, owner: User, provider: Provider) -> str:
    """An API key as it is stored; empty when there is none."""
    if not api_key:
        return ""
    return seal(
        api_key,
        keys=settings.KEYS.field,
        owner_id=owner.pk,
        origin=origin_of(provider.base_url),
    )


def delete(*, owner: User, conversation_id: int) -> None:
    """
    Remove an owned conversation with its messages; raises NotFound.

    An answer being written loses its row, which is what ends its writer.
    """
    remove(Conversation.objects.owned_by(owner), conversation_id=conversation_id)


def remove(found: ConversationQuerySet, *, conversation_id: int) -> None:
    """Remove one of the conversations `found`; raises NotFound."""
    with transaction.atomic():
        conversation = found.select_for_update().fetch(conversation_id)
        conversation.delete()
    history.forget(
        owner_id=conversation.owner_id,
        conversation_id=conversation_id,
        version=conversation.version,
    )
