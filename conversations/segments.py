"""
An index of what a user said and was told, for those who said much.

A segment holds the marks of some hundred messages of one owner, in buckets by hash,
so that a word is looked up by reading one small row of each segment. Messages without
a segment are read through instead; a search that meets many of them makes it one.
Which messages hold the words is always decided by their texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from django.db import connection, transaction
from django.db.models import QuerySet
from numpy.typing import NDArray

from accounts.models import User
from conversations.models import Message, SearchBucket, SearchSegment
from conversations.words import bucket_of, buckets, hashes_of, marks_of, numbers_in

Keys = NDArray[np.int64]

MESSAGES = 500
CHARACTERS = 2_000_000


def of(owner: User) -> set[int]:
    """The primary keys of a user's segments."""
    mine = SearchSegment.objects.filter(owner=owner)
    return set(mine.values_list("pk", flat=True))


def unindexed(owner: User) -> QuerySet[Message]:
    """A user's messages that no segment covers."""
    return Message.objects.filter(conversation__owner=owner, segment=None)


def index_some(owner: User) -> int:
    """
    Cover the oldest messages that no segment covers by one; how many they are.

    None where they are too few to be worth it.
    """
    with transaction.atomic():
        closed = unindexed(owner).exclude(status=Message.Status.STREAMING)
        if connection.features.has_select_for_update_skip_locked:
            closed = closed.select_for_update(of=("self",), skip_locked=True)
        rows = closed.order_by("pk").values_list("pk", "content")[:MESSAGES]
        pks, texts = [], []
        left = CHARACTERS
        for pk, text in rows:
            left -= len(text)
            pks.append(pk)
            texts.append(text)
            if left < 0:
                break
        if len(pks) < MESSAGES and left >= 0:
            return 0
        segment = SearchSegment.objects.create(
            owner=owner, messages=np.array(pks, "<i8").tobytes()
        )
        SearchBucket.objects.bulk_create(
            SearchBucket(segment=segment, number=number, marks=stored)
            for number, stored in buckets(marks_of(texts)).items()
        )
        Message.objects.filter(pk__in=pks).update(segment=segment)
    return len(pks)


def index_all(owner: User) -> Iterator[int]:
    """index_some() until nothing is left for it; yields how many messages it took."""
    while taken := index_some(owner):
        yield taken


def candidates(owner: User, words: Sequence[str]) -> Keys:
    """
    The primary keys of indexed messages that may hold all the words.

    Some of them may be gone, or hold the characters in other places.
    """
    hashes = hashes_of(words)
    kept = SearchBucket.objects.filter(
        segment__owner=owner, number__in={bucket_of(hashed) for hashed in hashes}
    )
    stored: dict[int, dict[int, bytes | memoryview]] = {}
    for segment, number, marks in kept.values_list("segment", "number", "marks"):
        stored.setdefault(segment, {})[number] = marks
    found = {
        segment: _in_all(by_number, hashes) for segment, by_number in stored.items()
    }
    having = [segment for segment, numbers in found.items() if len(numbers)]
    named = SearchSegment.objects.filter(pk__in=having).values_list("pk", "messages")
    keys = [np.frombuffer(messages, "<i8")[found[pk]] for pk, messages in named]
    return np.concatenate([np.empty(0, np.int64), *keys])


def _in_all(
    by_number: dict[int, bytes | memoryview], hashes: Sequence[int]
) -> NDArray[np.uint32]:
    """The numbers of the texts that have all the hashes."""
    left: NDArray[np.uint32] | None = None
    for hashed in hashes:
        stored = by_number.get(bucket_of(hashed), b"")
        numbers = numbers_in(stored, hashed)
        left = numbers if left is None else np.intersect1d(left, numbers, True)
        if not len(left):
            break
    return np.empty(0, np.uint32) if left is None else left


def drop_those_of(conversation_id: int) -> None:
    """
    Forget what is known of a conversation's messages, in the caller's transaction.

    Its segments cover others, too, which are then read through until they are
    indexed again.
    """
    covering = SearchSegment.objects.filter(covered__conversation=conversation_id)
    found = sorted(set(covering.values_list("pk", flat=True)))
    if not found:
        return
    segments = SearchSegment.objects.filter(pk__in=found)
    # In one order, so that two deletions never wait for each other.
    list(segments.select_for_update().order_by("pk").values_list("pk"))
    Message.objects.filter(segment__in=found).update(segment=None)
    segments.delete()
