"""
Whether a text is written in words or without spaces between them; pure.

That is all that is told of its script and its language: it is what parts Chinese from
English, whose texts have no terms in common.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llmbackend.unspaced import UNSPACED
from rag.terms import Terms, Unpacked, character_ids

# Of an id, the bits that are looked at: a table of so many places stays in a cache.
LOOKED_AT = 22


def is_spaced(terms: Terms) -> bool:
    """Whether a text is written in words, more than in characters without spaces."""
    return len(terms.words) > len(terms.characters)


def characters_in(rows: Unpacked) -> NDArray[np.uint8]:
    """
    The counts of stored terms, 0 where a term is a word or a pair of characters.

    One in forty of those passes for a character, for the sake of speed.
    """
    may_be = _characters().take(rows.ids >> np.uint32(32 - LOOKED_AT))
    counts: NDArray[np.uint8] = rows.counts * may_be
    return counts


def are_unspaced(
    characters: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.bool]:
    """
    Which texts have more characters without spaces than words, by how many of their
    terms are characters: a text of n has n of them and nearly as many pairs.
    """
    return characters * 3 > lengths


@lru_cache(maxsize=1)
def _characters() -> NDArray[np.bool]:
    """By the upper bits of an id whether a character may have it."""
    every = character_ids(UNSPACED.nonzero()[0].astype(np.uint32))
    table = np.zeros(1 << LOOKED_AT, np.bool)
    table[every >> np.uint32(32 - LOOKED_AT)] = True
    return table
