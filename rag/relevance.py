"""
Whether any passage seems to be about the question.

Something is found for every question, and how near a passage is says little by itself:
a lay question shares few words with the clause that answers it, and one that merely
names the right thing is near to whatever is said of that thing. So nothing is held to
be relevant only when both say so: no passage is near, and none holds much of the
question. That share is the best passage's and not the base's, which soon knows every
word of a language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.embedders import LOCAL_E5, LOCAL_NGRAM
from rag.overlap import Overlap
from rag.passages import Passage
from rag.terms import Ids, Terms, terms_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """
    A passage that reaches either is relevant: its cosine, its share of the question.

    `across_scripts`: the embedder finds texts in another script than the question's,
    which share no words with it and whose cosines are lower.
    """

    cosine: float
    share: float
    across_scripts: bool = True


# Fitted on XQuAD, see docs/performance.md. The cosines of multilingual-e5-small are
# high for anything: two unrelated Chinese texts have .82.
_THRESHOLDS = {
    LOCAL_E5: Thresholds(cosine=0.88, share=0.42),
    LOCAL_NGRAM: Thresholds(cosine=0.2, share=0.42, across_scripts=False),
}
# The cosines of other models are on scales of their own. On none of those is a passage
# near at .2, and passages too many do less harm than an answer withheld.
_UNKNOWN_SCALE = Thresholds(cosine=0.2, share=0.1)


def is_relevant(
    question: str,
    passages: Sequence[Passage],
    *,
    embedding_model: str,
    idf: Callable[[Ids], NDArray[np.float32]],
) -> bool:
    """Whether a passage reaches a threshold of its embedding model; of none, False."""
    thresholds = _THRESHOLDS.get(embedding_model, _UNKNOWN_SCALE)
    if any(passage.dense >= thresholds.cosine for passage in passages):
        return True
    overlap = Overlap(question, idf=idf)
    spaced = _is_spaced(terms_of(question))
    for passage in passages:
        terms = terms_of(passage.content)
        if overlap.share(terms) >= thresholds.share:
            return True
        if thresholds.across_scripts and _is_spaced(terms) != spaced:
            return True
    return False


def _is_spaced(terms: Terms) -> bool:
    """Whether a text is written in words, more than in characters without spaces."""
    return len(terms.words) > len(terms.characters)
