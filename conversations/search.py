"""What a user said and was told, found again by words, in titles and messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from django.db import DatabaseError
from django.db.models import QuerySet

from accounts.models import User
from conversations import segments
from conversations.models import Conversation, Message
from conversations.words import Snippet, distinct, folded, snippet, spans
from llmbackend.errors import NotFound

logger = logging.getLogger(__name__)

AT_ONCE = 50
# Of one page: a search of words that never stand together must end, too.
MOST_READ = 3000
MOST_CHARACTERS = 4_000_000
MOST_INDEXED = 5  # segments


@dataclass(frozen=True, slots=True)
class Place:
    """A title, or with its message_id a message: where a page begins after."""

    conversation_id: int
    message_id: int | None = None

    def __str__(self) -> str:
        if self.message_id is None:
            return str(self.conversation_id)
        return f"{self.conversation_id}-{self.message_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A title or message that holds all the words; `role` is empty for a title."""

    place: Place
    title: str
    role: str
    snippet: Snippet


@dataclass(slots=True)
class Page:
    """Hits, and the place after which the next page begins; None: there is none."""

    hits: list[Hit] = field(default_factory=list)
    next: Place | None = None

    def takes(self, hit: Hit, limit: int) -> bool:
        """Add a hit; False where the page is full, so that another one follows."""
        if len(self.hits) == limit:
            self.next = self.hits[-1].place
            return False
        self.hits.append(hit)
        return True


def search(
    *, owner: User, words: Sequence[str], limit: int, before: Place | None = None
) -> Page:
    """
    A page of what holds all the words: titles first, then messages, latest first.

    A page with a `next` may have fewer than `limit` hits, even none. Raises NotFound
    for a `before` that is not the owner's.
    """
    page = Page()
    among_titles = before is None or before.message_id is None
    if among_titles and _add_titles(page, owner, words, before, limit):
        return page
    found, others = _to_be_read(owner, words)
    pks = distinct(np.concatenate([found, others]))[::-1]
    if before is not None and before.message_id is not None:
        last = _pk_of(owner, before.conversation_id, before.message_id)
        pks = pks[pks < last]
    _add_messages(page, owner, words, pks, limit)
    _index(owner, min(len(others) // segments.MESSAGES, MOST_INDEXED))
    return page


def _to_be_read(
    owner: User, words: Sequence[str]
) -> tuple[segments.Keys, segments.Keys]:
    """The messages that may hold the words: those of segments, and those of none."""
    while True:
        known = segments.of(owner)
        others = list(segments.unindexed(owner).values_list("pk", flat=True))
        found = segments.candidates(owner, words)
        # What a segment covered that has gone meanwhile is in neither.
        if known <= segments.of(owner):
            return found, np.array(others, np.int64)


def _index(owner: User, times: int) -> None:
    """What was read through now need not be the next time, if it can be stored."""
    try:
        for _ in range(times):
            segments.index_some(owner)
    except DatabaseError as exc:
        logger.warning("Messages were not indexed (%s)", type(exc).__name__)


def _add_titles(
    page: Page, owner: User, words: Sequence[str], before: Place | None, limit: int
) -> bool:
    """Whether there are more than the page takes."""
    mine = Conversation.objects.owned_by(owner)
    listed = mine.newest_first()
    if before is not None:
        last = mine.fetch(before.conversation_id)
        listed = listed.older_than(updated_at=last.updated_at, pk=last.pk)
    rows = list(listed.values_list("pk", "title"))
    # All at once, which is five times as quick as one by one.
    plain = folded("\n".join(title.replace("\n", " ") for _, title in rows))
    if not all(word in plain for word in words):
        return False
    for (pk, title), text in zip(rows, plain.split("\n"), strict=False):
        if not all(word in text for word in words):
            continue
        if found := spans(title, words):
            hit = Hit(
                place=Place(pk), title=title, role="", snippet=snippet(title, found)
            )
            if not page.takes(hit, limit):
                return True
    return False


def _pk_of(owner: User, conversation_id: int, message_id: int) -> int:
    """A message's primary key, by which they are in the order they were stored."""
    conversation = Conversation.objects.owned_by(owner).fetch(conversation_id)
    named = conversation.messages.filter(number=message_id)
    pk = named.values_list("pk", flat=True).first()
    if pk is None:
        raise NotFound
    return pk


def _add_messages(
    page: Page, owner: User, words: Sequence[str], pks: segments.Keys, limit: int
) -> None:
    """Read messages until the page is full, or enough has been read for one."""
    characters, place = 0, None
    for start in range(0, len(pks), AT_ONCE):
        for message in _messages(owner, pks[start : start + AT_ONCE].tolist()):
            place = Place(message.conversation_id, message.number)
            characters += len(message.content)
            if found := spans(message.content, words):
                hit = Hit(
                    place=place,
                    title=message.conversation.title,
                    role=message.role,
                    snippet=snippet(message.content, found),
                )
                if not page.takes(hit, limit):
                    return
        if start + AT_ONCE >= MOST_READ or characters > MOST_CHARACTERS:
            page.next = place if start + AT_ONCE < len(pks) else None
            return


def _messages(owner: User, pks: Sequence[int]) -> QuerySet[Message]:
    found = Message.objects.filter(pk__in=pks, conversation__owner=owner)
    fields = ("number", "role", "content", "conversation__title")
    return found.select_related("conversation").only(*fields).order_by("-pk")
