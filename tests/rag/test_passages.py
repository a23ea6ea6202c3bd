"""Found chunks -> the passages that are shown."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from rag.passages import Passage, are_neighbours, joined, shown

ONE, OTHER = uuid.uuid4(), uuid.uuid4()
TEXT = "".join(f"Sentence number {n} of the text. " for n in range(40))


def chunk(ordinal: int, start: int, end: int, score: float = 0.5, **more: Any) -> Any:
    """TEXT[start:end] as the chunk `ordinal` of the document ONE."""
    fields: dict[str, Any] = {
        "content": TEXT[start:end],
        "score": score,
        "dense": score,
        "keyword": 2 * score,
        "document_id": ONE,
        "document_name": "one.txt",
        "chunk_ids": (100 + ordinal,),
        "ordinals": (ordinal, ordinal),
        "start": start,
        "end": end,
        "page": ordinal,
        "heading_path": (f"Part {ordinal}",),
    }
    return Passage(**{**fields, **more})


class TestNeighbours:
    @pytest.mark.parametrize(
        ("first", "second", "near"),
        [
            (chunk(0, 0, 100), chunk(1, 80, 200), True),
            (chunk(0, 0, 100), chunk(1, 100, 200), True),
            (chunk(0, 0, 100), chunk(1, 102, 200), True),
            (chunk(0, 0, 100), chunk(1, 120, 200), False),
            (chunk(0, 0, 100), chunk(2, 102, 200), False),
            (chunk(0, 0, 100), chunk(0, 50, 150, document_id=OTHER), False),
        ],
    )
    def test_they_overlap_touch_or_follow_one_another(
        self, first: Passage, second: Passage, near: bool
    ) -> None:
        assert are_neighbours(first, second) is near
        assert are_neighbours(second, first) is near


class TestJoined:
    def test_it_is_the_text_from_the_first_start_to_the_last_end(self) -> None:
        whole = joined(chunk(3, 80, 200, 0.9), chunk(2, 0, 100, 0.4))

        assert whole.content == TEXT[0:200]
        assert (whole.start, whole.end) == (0, 200)
        assert whole.ordinals == (2, 3)
        assert whole.chunk_ids == (102, 103)
        assert (whole.page, whole.heading_path) == (2, ("Part 2",))
        assert (whole.score, whole.dense, whole.keyword) == (0.9, 0.9, 1.8)

    def test_of_two_one_within_the_other_it_is_the_larger(self) -> None:
        whole = joined(chunk(0, 0, 200), chunk(1, 50, 100))

        assert (whole.content, whole.end) == (TEXT[0:200], 200)


class TestShown:
    def test_the_best_are_shown_best_first(self) -> None:
        found = [chunk(n, 100 * n, 100 * n + 50, 1 - n / 10) for n in (0, 4, 8, 12)]

        passages = shown(found, top_k=3)

        assert [p.ordinals[0] for p in passages] == [0, 4, 8]

    def test_neighbours_are_one_and_the_place_is_filled(self) -> None:
        found = [
            chunk(0, 0, 100, 0.9),
            chunk(1, 80, 200, 0.8),
            chunk(5, 500, 600, 0.7),
            chunk(8, 800, 900, 0.6),
        ]

        passages = shown(found, top_k=2)

        assert [(p.start, p.end) for p in passages] == [(0, 200), (500, 600)]

    def test_a_chunk_between_two_makes_them_one(self) -> None:
        found = [chunk(0, 0, 100, 0.9), chunk(2, 180, 300, 0.8), chunk(1, 80, 200, 0.7)]

        passages = shown(found, top_k=3)

        assert [p.content for p in passages] == [TEXT[0:300]]
        assert passages[0].chunk_ids == (100, 101, 102)

    def test_a_passage_does_not_grow_by_what_was_not_among_the_best(self) -> None:
        found = [chunk(0, 0, 100, 0.9), chunk(1, 80, 200, 0.1)]

        assert [p.end for p in shown(found, top_k=1)] == [100]

    def test_a_text_is_shown_once(self) -> None:
        copy = {"document_id": OTHER, "content": TEXT[0:100] + " "}
        found = [
            chunk(0, 0, 100, 0.9),
            chunk(7, 700, 800, 0.8, **copy),
            chunk(9, 900, 999, 0.7),
        ]

        passages = shown(found, top_k=2)

        assert [p.ordinals[0] for p in passages] == [0, 9]

    def test_of_nothing_is_nothing(self) -> None:
        assert shown([], top_k=5) == []

    def test_no_more_is_read_than_needed(self) -> None:
        found = iter([chunk(n, 100 * n, 100 * n + 50) for n in range(0, 20, 2)])

        shown(found, top_k=2)

        assert len(list(found)) >= 7
