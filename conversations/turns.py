"""A turn: a question and the answer that grows under it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, cast

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, QuerySet
from django.utils import timezone

from accounts import idempotency
from accounts.idempotency import Once
from accounts.limits import limits_of
from accounts.models import User
from conversations.allowances import admit
from conversations.asked import Asked, Continue, Edit, Question, Regenerate
from conversations.branches import Node, nodes_of, path_to, place_of
from conversations.history import Said, closed_path
from conversations.models import Conversation, Message, check_id
from conversations.titles import made_of
from conversations.writers import beat_if_silent, interrupt_orphans
from llmbackend.chat_models import QUOTE, provider_for
from llmbackend.config import Limits
from llmbackend.errors import (
    AnswerInProgress,
    Invalid,
    LimitReached,
    NotActive,
    NotFound,
    NothingToContinue,
)
from llmbackend.prepared import Insert, Select, SelectObject, Update, given

Role, Status = Message.Role, Message.Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    What it takes to answer, read while the rows were made; no ORM object.

    `text`, `reasoning`, `sources` and the tokens are what a continued answer has and
    has cost already; `titled` is the title that the question gave its conversation, if
    it gave one; `limits` are its owner's.
    """

    conversation_id: int
    owner_id: int
    question_id: int
    message_id: int
    answer_pk: int
    provider: str
    model: str
    system_prompt: str | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    sealed_key: str
    question: str
    earlier: tuple[Said, ...]
    limits: Limits
    text: str = ""
    reasoning: str = ""
    sources: tuple[dict[str, Any], ...] = ()
    continues: bool = False
    first_token_at: datetime | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_estimated: bool = False
    titled: str = ""


def open_turn(
    *,
    user: User,
    conversation_id: int,
    asked: Asked,
    writer: uuid.UUID,
    key: Once | None = None,
    knowledge_base_id: uuid.UUID | None = None,
    passages: int = 0,
) -> Opened | str:
    """
    Store a question and the empty answer `writer` will fill, or reopen an answer.

    Where `key` did so before, nothing happens: what it made then is returned, as
    `made_by` puts it. `passages` is how many tokens the knowledge base, if the answer
    is to rest on one, may add to what is sent. Raises NotFound, NotActive,
    NothingToContinue, UnknownModel, Forbidden for a model that is not granted,
    IdempotencyMismatch, what `admit` raises and, while another answer is being written,
    AnswerInProgress.
    """
    opened = partial(
        _open_turn,
        user,
        conversation_id,
        asked,
        writer,
        key,
        knowledge_base_id,
        passages,
    )
    try:
        return opened()
    except (AnswerInProgress, LimitReached):
        if not interrupt_orphans(owner_id=user.pk):
            raise
        return opened()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The rows of a turn as they are stored; `turn_of` makes it of them."""

    conversation: Conversation
    user: User
    asked: Asked
    rows: _Rows
    titled: str


@dataclass(slots=True, kw_only=True)
class _Rows:
    """The two rows of a turn, and how many messages of the branch stand before them."""

    question: Message | _Asked
    answer: Message | _Begun
    before: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question's new row, as far as a turn needs it; to make a Message is slow."""

    pk: int
    number: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """An answer's new row, in the same way."""

    pk: int
    number: int
    provider: str
    content: str = ""
    reasoning: str = ""
    sources: tuple[dict[str, Any], ...] = ()
    first_token_at: datetime | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False


def _open_turn(
    user: User,
    conversation_id: int,
    asked: Asked,
    writer: uuid.UUID,
    key: Once | None,
    knowledge_base_id: uuid.UUID | None,
    passages: int,
) -> Opened | str:
    with transaction.atomic():
        conversation = _locked(user, conversation_id)
        user.grant.require_model(conversation.model)
        made = idempotency.claim(user, key)
        if made is not None:
            return made
        provider = provider_for(conversation.model, config=settings.CONFIG).name
        beat_if_silent(writer)
        last, running = _numbered(conversation)
        if running:
            raise AnswerInProgress
        set_aside = admit(
            user, conversation=conversation, asked=asked, passages=passages
        )
        now = timezone.now()
        writing = _Writing(provider, knowledge_base_id, writer, now, set_aside)
        new = _New(conversation, last + 1, writing)
        rows = _rows(new, asked)
        titled = "" if conversation.title else made_of(rows.question.content)
        _BEGUN.run(
            id=conversation.pk,
            active_leaf=rows.answer.pk,
            title=conversation.title or titled,
            updated_at=now,
        )
        idempotency.settle(user, key, made=made_by(rows.answer))
    return Opened(
        conversation=conversation, user=user, asked=asked, rows=rows, titled=titled
    )


def turn_of(opened: Opened) -> Turn:
    """
    What it takes to answer.

    To be called after the commit: a slow Redis must not hold the write lock.
    """
    conversation, user, rows = opened.conversation, opened.user, opened.rows
    path = closed_path(conversation, leaf_id=conversation.active_leaf_id)
    earlier = tuple(path[: rows.before])
    answer = rows.answer
    return Turn(
        conversation_id=conversation.pk,
        owner_id=user.pk,
        question_id=rows.question.number,
        message_id=answer.number,
        answer_pk=answer.pk,
        provider=answer.provider,
        model=conversation.model,
        system_prompt=conversation.system_prompt,
        temperature=conversation.temperature,
        top_p=conversation.top_p,
        max_tokens=conversation.max_tokens,
        sealed_key=conversation.api_key,
        question=rows.question.content,
        earlier=earlier,
        text=answer.content,
        reasoning=answer.reasoning,
        sources=tuple(answer.sources),
        continues=isinstance(opened.asked, Continue),
        first_token_at=answer.first_token_at,
        prompt_tokens=answer.prompt_tokens or 0,
        completion_tokens=answer.completion_tokens or 0,
        tokens_estimated=answer.tokens_estimated,
        titled=opened.titled,
        limits=limits_of(user),
    )


def made_by(answer: Message | _Begun) -> str:
    """What a key that opened `answer` stands for: where its stream begins."""
    return f"{answer.number}-{len(answer.reasoning)}-{len(answer.content)}"


@dataclass(frozen=True, slots=True)
class _Writing:
    """Who writes the answer, from what, since when, and the tokens it may take."""

    provider: str
    knowledge_base_id: uuid.UUID | None
    writer: uuid.UUID
    now: datetime
    set_aside: int


def _locked(user: User, conversation_id: int) -> Conversation:
    """An owned conversation, which nobody else changes now; raises NotFound."""
    check_id(conversation_id)
    conversation = _OWNED.first(owner=user.pk, id=conversation_id)
    if conversation is None:
        raise NotFound
    return conversation


_OWNED = SelectObject(
    lambda: (
        Conversation.objects.owned_by(given(Conversation, "owner"))
        .filter(pk=given(Conversation, "id"))
        .select_for_update()
    )
)
_BEGUN = Update(
    lambda: Conversation.objects.filter(pk=given(Conversation, "id")),
    lambda: {
        "active_leaf": given(Conversation, "active_leaf"),
        "title": given(Conversation, "title"),
        "updated_at": given(Conversation, "updated_at"),
        "version": F("version") + 1,
    },
)
_NEW = ("conversation_id", "number", "parent_id", "role", "created_at")
_ADD_QUESTION = Insert(Message, *_NEW, "content", "finished_at")
_ADD_ANSWER = Insert(
    Message,
    *(*_NEW, "status", "model", "provider", "knowledge_base_id"),
    *("writer_id", "set_aside"),
)


def _numbered(conversation: Conversation) -> tuple[int, bool]:
    """The last message's number, and whether an answer is being written."""
    last, running = _LAST.row(conversation=conversation.pk) or (0, False)
    return last, bool(running)


def _last() -> QuerySet[Message, tuple[Any, ...]]:
    messages = Message.objects.filter(conversation=given(Message, "conversation"))
    running = Exists(messages.filter(status=Status.STREAMING))
    return messages.order_by("-number").values_list("number", running)[:1]


_LAST = Select(_last)


def _rows(new: _New, asked: Asked) -> _Rows:
    conversation = new.conversation
    if isinstance(asked, Question):
        added = new.question(asked.text, conversation.active_leaf_id)
        return _Rows(question=added, answer=new.answer(added))
    nodes = nodes_of(conversation.pk)
    path = path_to(nodes, conversation.active_leaf_id)
    if not path:
        raise NotActive("Nothing has been asked in this conversation yet.")
    number = path[-1].number if asked.message_id is None else asked.message_id
    place = place_of(path, number, nodes)
    if isinstance(asked, Edit):
        _must_be(path[place], Role.USER)
        added = new.question(asked.text, path[place].parent_id)
        return _Rows(question=added, answer=new.answer(added), before=place)
    _must_be(path[place], Role.ASSISTANT)
    old = Message.objects.select_related("parent").get(pk=path[place].pk)
    question = cast(Message, old.parent)
    answer: Message | _Begun
    if isinstance(asked, Regenerate):
        answer = new.answer(question)
    elif place == len(path) - 1:
        answer = _reopened(old, conversation.model, new.writing)
    else:
        raise NotActive("Only the last answer of the active branch can go on.")
    return _Rows(question=question, answer=answer, before=place - 1)


def _must_be(node: Node, role: str) -> None:
    if node.role != role:
        kind = "a question" if role == Role.USER else "an answer"
        raise Invalid(f"message_id: must name {kind}.")


@dataclass(frozen=True, slots=True)
class _New:
    """Makes the rows of a turn; `number` is the next message's."""

    conversation: Conversation
    number: int
    writing: _Writing

    def question(self, text: str, parent_id: int | None) -> _Asked:
        key = _ADD_QUESTION.make(
            conversation_id=self.conversation.pk,
            number=self.number,
            parent_id=parent_id,
            role=Role.USER,
            content=text,
            created_at=self.writing.now,
            finished_at=self.writing.now,
        )
        return _Asked(pk=key, number=self.number, content=text)

    def answer(self, question: Message | _Asked) -> _Begun:
        number = max(self.number, question.number + 1)
        key = _ADD_ANSWER.make(
            conversation_id=self.conversation.pk,
            number=number,
            parent_id=question.pk,
            role=Role.ASSISTANT,
            status=Status.STREAMING,
            model=self.conversation.model,
            provider=self.writing.provider,
            knowledge_base_id=self.writing.knowledge_base_id,
            writer_id=self.writing.writer,
            set_aside=self.writing.set_aside,
            created_at=self.writing.now,
        )
        return _Begun(pk=key, number=number, provider=self.writing.provider)


def _reopened(answer: Message, model: str, writing: _Writing) -> Message:
    """The same row, streaming again; raises NothingToContinue."""
    if model == QUOTE:
        raise NothingToContinue(f"{QUOTE} goes on with nothing: it only quotes.")
    if answer.status == Status.COMPLETE and answer.finish_reason != "length":
        raise NothingToContinue
    if answer.status == Status.FAILED and not answer.content:
        raise NothingToContinue("This answer failed before it began; ask for another.")
    answer.status = Status.STREAMING
    answer.model, answer.provider = model, writing.provider
    answer.finish_reason = answer.error_code = ""
    answer.finished_at, answer.stop_requested = None, False
    answer.writer_id, answer.set_aside = writing.writer, writing.set_aside
    answer.segment = None  # Its text is to grow.
    answer.save()
    return answer


def _messages(conversation: Conversation) -> QuerySet[Message]:
    return Message.objects.filter(conversation=conversation)


def request_stop(
    *, user: User, conversation_id: int, message_id: int | None = None
) -> tuple[int, int] | None:
    """
    Ask whoever writes the answer of a conversation to stop.

    Returns the answer's primary key and number; None when none is being written, or
    not the one that `message_id` names. Raises NotFound.
    """
    conversation = Conversation.objects.owned_by(user).fetch(conversation_id)
    messages = _messages(conversation)
    if message_id is not None:
        messages = messages.filter(number=message_id)
        if not messages.exists():
            raise NotFound
    running = messages.filter(status=Status.STREAMING)
    found = running.values_list("pk", "number").first()
    if found is None or not running.update(stop_requested=True):
        return None
    return found
