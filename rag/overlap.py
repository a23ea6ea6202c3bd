"""How much of a question a text holds, by its terms alone; pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rag.terms import Ids, Terms, telling, terms_of

# A pair of characters says again what its two characters say.
PAIR = 1 / 3


class Overlap:
    """The terms of a question, each weighing what it tells."""

    def __init__(
        self, question: str, *, idf: Callable[[Ids], NDArray[np.float32]]
    ) -> None:
        """`idf` is how rare each of some terms is where the texts come from."""
        terms = telling(terms_of(question))
        singles = np.unique(np.concatenate([terms.words, terms.characters]))
        pairs = np.setdiff1d(terms.pairs, singles)
        weights = np.concatenate([idf(singles), idf(pairs) * PAIR])
        weights /= weights.sum() or 1
        ids = np.concatenate([singles, pairs])
        self._weights: dict[int, float] = dict(
            zip(ids.tolist(), weights.tolist(), strict=True)
        )

    def share(self, terms: Terms) -> float:
        """By weight, 0..1, the share of the question that a text of `terms` holds."""
        # For so few, a set is several times as fast as numpy.
        held = {
            *terms.words.tolist(),
            *terms.characters.tolist(),
            *terms.pairs.tolist(),
        }
        return sum(weight for term, weight in self._weights.items() if term in held)
