"""
Whether any passage seems to be about the question.

Something is found for every question, and how near a passage is says little by itself:
a lay question shares few words with the clause that answers it, and one that merely
names the right thing is near to whatever is said of that thing. So a passage is held to
be relevant when it is near, or when it holds enough of the question: the farther it is,
the more. That share is a passage's and not the base's, which soon knows every word of a
language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.embedders import LOCAL_E5, LOCAL_NGRAM
from rag.overlap import Overlap
from rag.passages import Passage
from rag.scripts import is_spaced
from rag.terms import Ids, terms_of

# A passage that holds this much of a question is about it however far it is: error
# numbers and names mean little to an embedder. What is not among the nearest 100 of a
# base has a cosine of 0.
MUCH = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """
    A passage is relevant whose cosine reaches `near`, and one that is all but near and
    holds `share` of the question, or `share_of_words` where that is written in words.

    `steepness` is how much more it must hold for each unit of cosine it is farther.
    The passage that holds the most of the question may be farther by `leniency`: where
    both searches mean the same one, it is likely to be meant.
    `across_scripts`: the embedder finds texts in another script than the question's,
    which share no words with it and whose cosines are lower.
    """

    near: float
    share: float
    share_of_words: float
    steepness: float = 0.0
    leniency: float = 0.0
    across_scripts: bool = True

    def share_at(self, cosine: float, *, spaced: bool, most: bool) -> float:
        """
        What share of the question a passage this near has to hold.

        `most` is whether it holds the most of it.
        """
        if cosine >= self.near - (self.leniency if most else 0.0):
            return 0.0
        share = self.share_of_words if spaced else self.share
        return min(MUCH, share + self.steepness * (self.near - cosine))


# Fitted on XQuAD, see docs/performance.md. The cosines of multilingual-e5-small are
# high for anything, and higher between Chinese texts, of which two unrelated ones have
# .82. Those of n-grams say again what the terms say.
_THRESHOLDS = {
    LOCAL_E5: Thresholds(
        near=0.89, share=0.33, share_of_words=0.09, steepness=6.0, leniency=0.01
    ),
    LOCAL_NGRAM: Thresholds(
        near=0.2, share=0.42, share_of_words=0.42, across_scripts=False
    ),
}
# The cosines of other models are on scales of their own. On none of those is a passage
# near at .2, and passages too many do less harm than an answer withheld.
_UNKNOWN_SCALE = Thresholds(near=0.2, share=0.1, share_of_words=0.1)


def is_relevant(
    question: str,
    passages: Sequence[Passage],
    *,
    embedding_model: str,
    idf: Callable[[Ids], NDArray[np.float32]],
) -> bool:
    """Whether any passage is relevant by its embedding model's thresholds."""
    thresholds = _THRESHOLDS.get(embedding_model, _UNKNOWN_SCALE)
    overlap = Overlap(question, idf=idf)
    spaced = is_spaced(terms_of(question))
    every = [terms_of(passage.content) for passage in passages]
    shares = [overlap.share(terms) for terms in every]
    for passage, terms, share in zip(passages, every, shares, strict=True):
        needed = thresholds.share_at(
            passage.dense, spaced=spaced, most=share == max(shares)
        )
        if share >= needed:
            return True
        if thresholds.across_scripts and is_spaced(terms) != spaced:
            return True
    return False
