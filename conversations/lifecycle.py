"""Conversations begin, change and go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts import audit, idempotency
from accounts.audit import Action
from accounts.idempotency import Once
from accounts.models import User
from conversations import history, segments
from conversations.models import Conversation, ConversationQuerySet, Message
from conversations.usage import note_interrupted
from llmbackend.chat_models import provider_for, usable_provider_for
from llmbackend.config import Provider
from llmbackend.crypto import origin_of, seal, unseal
from llmbackend.errors import StoredKeyUnreadable, UnknownModel
from llmbackend.prepared import Insert

LONG_ENOUGH_FOR_A_HINT = 16


class Changes(TypedDict, total=False):
    """What is to be changed; None leaves a setting to the configuration."""

    title: str
    model: str
    api_key: str
    system_prompt: str | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None


def create(
    *, owner: User, title: str, model: str, api_key: str, key: Once | None = None
) -> Conversation:
    """
    A new conversation; the API key, if any, is sealed for the model's provider.

    Without a title its first question gives it one.
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
        conversation = Conversation(
            owner=owner,
            title=title,
            model=model,
            api_key=sealed(api_key, owner=owner, provider=provider),
            created_at=now,
            updated_at=now,
        )
        _ADD.run(conversation)
        if api_key:
            audit.record(Action.KEY_SET, by=owner.pk, on=conversation)
        idempotency.settle(owner, key, made=str(conversation.pk))
    return conversation


_ADD = Insert(Conversation)


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


def change(*, owner: User, conversation_id: int, changes: Changes) -> Conversation:
    """
    Change an owned conversation, from its next question on.

    Raises NotFound, UnknownModel, ModelNotInstalled, Forbidden for a model that is not
    granted, and StoredKeyUnreadable where the stored key is not for the new model's
    provider and no other is given.
    """
    if "model" in changes:
        owner.grant.require_model(changes["model"])
        usable_provider_for(changes["model"], config=settings.CONFIG)
    with transaction.atomic():
        owned = Conversation.objects.owned_by(owner).select_for_update()
        conversation = owned.fetch(conversation_id)
        if not changes:
            return conversation
        stored = changes.copy()
        model = changes.get("model", conversation.model)
        if "api_key" in changes:
            provider = provider_for(model, config=settings.CONFIG)
            stored["api_key"] = sealed(
                changes["api_key"], owner=owner, provider=provider
            )
            note_key(conversation, stored["api_key"], by=owner.pk)
        elif "model" in changes:
            must_open(conversation, model=model)
        for name, value in stored.items():
            setattr(conversation, name, value)
        conversation.version += 1
        conversation.save(update_fields=[*stored, "version"])
    return conversation


def note_key(conversation: Conversation, replacement: str, *, by: int | None) -> None:
    """Put into the audit log that a conversation's key is set or cleared."""
    if replacement:
        audit.record(Action.KEY_SET, by=by, on=conversation)
    elif conversation.api_key:
        audit.record(Action.KEY_ENDED, by=by, on=conversation)


def clear_keys(ids: Iterable[int], *, by: int | None) -> int:
    """Forget the API keys of conversations; how many had one."""
    cleared = 0
    for pk in ids:
        with transaction.atomic():
            rows = Conversation.objects.select_for_update().filter(pk=pk)
            conversation = rows.exclude(api_key="").first()
            if conversation is None:
                continue
            note_key(conversation, "", by=by)
            rows.update(api_key="", version=F("version") + 1)
            cleared += 1
    return cleared


def key_hint(conversation: Conversation) -> str:
    """
    A stored key as `sk-…abcd`, a short one as `…`; empty if it cannot be opened.

    Four characters of it at most, so that nobody gets nearer to it.
    """
    try:
        provider = provider_for(conversation.model, config=settings.CONFIG)
        key = unseal(
            conversation.api_key,
            keys=settings.KEYS.field,
            owner_id=conversation.owner_id,
            origin=origin_of(provider.base_url),
        )
    except (StoredKeyUnreadable, UnknownModel):
        return ""
    if len(key) < LONG_ENOUGH_FOR_A_HINT:
        return "…"
    return f"{'sk-' if key.startswith('sk-') else ''}…{key[-4:]}"


def must_open(conversation: Conversation, *, model: str) -> None:
    """Raise StoredKeyUnreadable where a stored key is not for who serves `model`."""
    if not conversation.api_key:
        return
    provider = provider_for(model, config=settings.CONFIG)
    try:
        unseal(
            conversation.api_key,
            keys=settings.KEYS.field,
            owner_id=conversation.owner_id,
            origin=origin_of(provider.base_url),
        )
    except StoredKeyUnreadable:
        raise StoredKeyUnreadable(
            "The stored key is not for this model's provider; "
            "give api_key with the model, or an empty one."
        ) from None


def delete(*, owner: User, conversation_id: int) -> None:
    """
    Remove an owned conversation with its messages; raises NotFound.

    An answer being written loses its row, which is what ends its writer.
    """
    mine = Conversation.objects.owned_by(owner)
    remove(mine, conversation_id=conversation_id, by=owner.pk)


def remove(
    found: ConversationQuerySet, *, conversation_id: int, by: int | None
) -> None:
    """
    Remove one of the conversations `found`; raises NotFound.

    What an answer that is being written has cost by now stays with its owner.
    """
    with transaction.atomic():
        conversation = found.select_for_update().fetch(conversation_id)
        audit.record(Action.DELETED, by=by, on=conversation)
        written = conversation.messages.filter(status=Message.Status.STREAMING)
        for answer_pk in written.values_list("pk", flat=True):
            note_interrupted(answer_pk)
        segments.drop_those_of(conversation.pk)
        conversation.delete()
    history.forget(
        owner_id=conversation.owner_id,
        conversation_id=conversation_id,
        version=conversation.version,
    )
