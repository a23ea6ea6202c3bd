"""Whole conversations made at once: copied, and taken in from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.db import transaction
from django.utils import timezone

from accounts import idempotency
from accounts.idempotency import Once
from accounts.models import User
from conversations.incoming import Incoming
from conversations.models import Conversation, Message, check_id
from conversations.writers import interrupt_orphans
from llmbackend.errors import AnswerInProgress, NotFound

AT_ONCE = 200
NOTHING = "-"
SETTINGS = ("title", "model", "system_prompt", "temperature", "top_p", "max_tokens")


def plant(
    conversation: Conversation,
    messages: Sequence[Message],
    *,
    parents: Mapping[int, int | None],
    active: int | None,
) -> None:
    """
    Store a new conversation's messages, in the caller's transaction.

    `parents` says of each number which one it stands under, None for a beginning;
    `active` is where the active branch ends.
    """
    made = Message.objects.bulk_create(messages)
    pks = {message.number: message.pk for message in made}
    below = []
    for message in made:
        parent = parents[message.number]
        if parent is not None:
            message.parent_id = pks[parent]
            below.append(message)
    Message.objects.bulk_update(below, ["parent"], batch_size=AT_ONCE)
    conversation.active_leaf_id = None if active is None else pks[active]
    conversation.save(update_fields=["active_leaf"])


def duplicate(
    *, owner: User, conversation_id: int, key: Once | None = None
) -> Conversation:
    """
    A copy of an owned conversation, all branches and the sealed API key with it.

    Where the request of `key` made one before, that one. Raises NotFound,
    AnswerInProgress while an answer is being written, Forbidden for a model that is
    not granted, IdempotencyMismatch, and NotFound when the copy was deleted since.
    """
    mine = Conversation.objects.owned_by(owner)
    check_id(conversation_id)
    interrupt_orphans(conversation_id=conversation_id, owner_id=owner.pk)
    with transaction.atomic():
        made = idempotency.claim(owner, key)
        if made is not None:
            copy = mine.fetch(int(made))
            owner.grant.require_model(copy.model)
            return copy
        original = mine.select_for_update().fetch(conversation_id)
        owner.grant.require_model(original.model)
        messages = list(original.messages.order_by("number"))
        if any(message.status == Message.Status.STREAMING for message in messages):
            raise AnswerInProgress
        copy = _copied(original, messages)
        idempotency.settle(owner, key, made=str(copy.pk))
    return copy


def _copied(original: Conversation, messages: Sequence[Message]) -> Conversation:
    numbers: dict[int | None, int | None] = {m.pk: m.number for m in messages}
    numbers[None] = None
    parents = {m.number: numbers[m.parent_id] for m in messages}
    active = numbers[original.active_leaf_id]
    now = timezone.now()
    kept = {name: getattr(original, name) for name in SETTINGS}
    copy = Conversation.objects.create(
        owner_id=original.owner_id,
        # Bound to owner and origin, which are the same.
        api_key=original.api_key,
        created_at=now,
        updated_at=now,
        **kept,
    )
    for message in messages:
        message.pk = message.parent_id = message.segment_id = None
        message.conversation = copy
        message.stop_requested = False
    plant(copy, messages, parents=parents, active=active)
    return copy


def take_in(
    *, owner: User, found: Sequence[Incoming], key: Once | None = None
) -> list[Conversation]:
    """
    Make the conversations of an import the owner's, all of them or none.

    Where the request of `key` did so before, those that are still there. Raises
    Forbidden for a model that is not granted, IdempotencyMismatch, and NotFound when
    all were deleted since.
    """
    for model in sorted({one.fields["model"] for one in found}):
        owner.grant.require_model(model)
    with transaction.atomic():
        made = idempotency.claim(owner, key)
        if made is not None:
            return _made_before(owner, made)
        conversations = [_taken_in(owner, one) for one in found]
        ids = " ".join(str(conversation.pk) for conversation in conversations)
        idempotency.settle(owner, key, made=ids or NOTHING)
    return conversations


def _made_before(owner: User, made: str) -> list[Conversation]:
    if made == NOTHING:
        return []
    ids = [int(one) for one in made.split()]
    left = Conversation.objects.owned_by(owner).in_bulk(ids)
    if not left:
        raise NotFound
    return [left[pk] for pk in ids if pk in left]


def _taken_in(owner: User, one: Incoming) -> Conversation:
    conversation = Conversation.objects.create(owner=owner, **one.fields)
    messages = []
    for said in one.messages:
        fields = {k: v for k, v in said.items() if k not in {"message_id", "parent_id"}}
        number = said["message_id"]
        messages.append(Message(conversation=conversation, number=number, **fields))
    parents = {said["message_id"]: said["parent_id"] for said in one.messages}
    plant(conversation, messages, parents=parents, active=one.active)
    return conversation
