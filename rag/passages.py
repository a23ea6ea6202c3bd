"""Found chunks -> passages to show: no text twice, neighbours joined; pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace

# White space between two chunks that follow one another, at most.
WIDEST_GAP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """
    A piece of a document, as retrieval returns it.

    `content` is `text[start:end]` of the document. `score` is what it is ranked by,
    0..1; `dense` and `keyword` are what each side said before, 0 for a side that did
    not find it.
    """

    content: str
    score: float
    dense: float
    keyword: float
    document_id: uuid.UUID
    document_name: str
    chunk_ids: tuple[int, ...]
    ordinals: tuple[int, int]
    start: int
    end: int
    page: int | None
    heading_path: tuple[str, ...]


def shown(found: Iterable[Passage], *, top_k: int) -> list[Passage]:
    """
    At most `top_k` passages, best first, of chunks that come best first.

    A text that is shown already is left out. Of the `top_k` best, chunks that touch or
    follow one another become one passage with the best score; chunks from elsewhere
    fill the places so freed, so that a passage does not grow to its whole document.
    """
    passages: list[Passage] = []
    texts: set[str] = set()
    for chunk in found:
        if len(texts) >= top_k and len(passages) == top_k:
            break
        if chunk.content.strip() in texts:
            continue
        near = [passage for passage in passages if are_neighbours(passage, chunk)]
        if near and len(texts) >= top_k:
            continue
        texts.add(chunk.content.strip())
        whole = chunk
        for passage in near:
            passages.remove(passage)
            whole = joined(passage, whole)
        passages.append(whole)
    return sorted(passages, key=lambda passage: -passage.score)


def are_neighbours(one: Passage, other: Passage) -> bool:
    """Whether two pieces of a document overlap, touch, or follow one another."""
    if one.document_id != other.document_id:
        return False
    first, second = sorted((one, other), key=lambda passage: passage.start)
    if second.start <= first.end:
        return True
    follows = second.ordinals[0] == first.ordinals[1] + 1
    return follows and second.start - first.end <= WIDEST_GAP


def joined(one: Passage, other: Passage) -> Passage:
    """Two neighbours as one, with the better's scores."""
    first, second = sorted((one, other), key=lambda passage: passage.start)
    best = max(one, other, key=lambda passage: passage.score)
    gap = "\n" * max(0, second.start - first.end)
    rest = second.content[max(0, first.end - second.start) :]
    return replace(
        best,
        content=first.content + gap + rest,
        chunk_ids=tuple(dict.fromkeys(first.chunk_ids + second.chunk_ids)),
        ordinals=(first.ordinals[0], max(first.ordinals[1], second.ordinals[1])),
        start=first.start,
        end=max(first.end, second.end),
        page=first.page,
        heading_path=first.heading_path,
    )
