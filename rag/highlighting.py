"""Which parts of a text are terms of a question; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from rag.terms import WORD, telling, terms_of

# An underscore separates words, as it does for the search.
_PART = re.compile(rf"(?!_){WORD.pattern}")


def highlighted(text: str, question: str) -> list[tuple[str, bool]]:
    """
    The text in pieces, and of each whether the question has it.

    >>> highlighted("Cats and 猫鼠 run", "does the cat run, 猫鼠?")
    [('Cats', True), (' and ', False), ('猫鼠', True), (' ', False), ('run', True)]
    """
    terms = telling(terms_of(question))
    words, pairs = frozenset(terms.words.tolist()), frozenset(terms.pairs.tolist())
    characters = frozenset() if pairs else frozenset(terms.characters.tolist())
    marked = [False] * len(text)
    for part in _PART.finditer(text):
        for start, end in _terms_in(text, part.start(), part.end()):
            found = _ids_of(text[start:end])
            if found[0] & words or found[1] & pairs or found[2] & characters:
                marked[start:end] = [True] * (end - start)
    pieces = groupby(zip(text, marked, strict=True), key=lambda each: each[1])
    return [("".join(c for c, _ in group), is_term) for is_term, group in pieces]


def _terms_in(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The words of a run, and where it has no spaces its characters and pairs."""
    runs = groupby(range(start, end), key=lambda place: _is_unspaced(text[place]))
    for unspaced, places in runs:
        run = list(places)
        if not unspaced:
            yield run[0], run[-1] + 1
            continue
        for place in run:
            yield place, place + 1
            if place < run[-1]:
                yield place, place + 2


@lru_cache(maxsize=1 << 14)
def _is_unspaced(character: str) -> bool:
    return bool(len(terms_of(character).characters))


@lru_cache(maxsize=1 << 14)
def _ids_of(piece: str) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    terms = terms_of(piece)
    # A pair's single characters are looked at by themselves.
    characters = terms.characters if len(piece) == 1 else terms.characters[:0]
    return (
        frozenset(terms.words.tolist()),
        frozenset(terms.pairs.tolist()),
        frozenset(characters.tolist()),
    )
