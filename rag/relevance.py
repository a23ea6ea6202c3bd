"""
Whether any passage seems to be about the question.

Something is found for every question, and how near a passage is says little by itself:
a lay question shares few words with the clause that answers it, and one that merely
names the right thing is near to whatever is said of that thing. So a passage is held to
be relevant when it is near, or when it holds enough of the question: the farther it is,
the more. That share is a passage's and not the base's, which soon knows every word of a
language.

What is near depends on what the base is about: in a book of law every clause is near to
a question of law. So with `local-e5`, where a base has enough to compare, a passage is
relevant that stands out: from the other passages, and above what else is near. Copies
of it, which versions of a document are, do not make it stand out less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.embedding_models import LOCAL_E5, LOCAL_NGRAM
from rag.fusion import DEPTH
from rag.overlap import Overlap
from rag.passages import Passage
from rag.quoting import sentences
from rag.scripts import is_spaced
from rag.terms import Ids, Terms, terms_of

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
# With `local-e5`: what the best passage has to reach, as `_stands_out` has it. One in
# characters has less to reach the shorter it is: a clause holds less of any question
# than a paragraph. Fitted on XQuAD, and on lay questions of law and of software.
_BOUND = 0.9059
_BOUND_OF_WORDS = 0.852
_LENGTH = 300  # In characters; the bound is less for what is shorter.
_BY_LENGTH = 0.02  # How much less, for each power of e.
# What a sentence that holds all of the question weighs beside a cosine.
_SENTENCE = 0.1
# What a passage's share of it weighs, beyond what most hold of any question.
_SHARE = 0.15
_ANY = 0.3
# How many of the next that do not copy it the best has to lead. By three, more Chinese
# questions are flagged; in words, more lay questions would be withheld.
_NEXT = 3
_NEXT_OF_WORDS = 2
# A text that has this much of the words and pairs of another, or it of its, copies it.
_COPY = 0.5
# The nearest of a base, of which the farthest say how near things are in it.
_NEAREST = 10
_AROUND = 6
# Fewer passages do not show which of them stands out.
_COMPARED = 3

# The cosines of other models are on scales of their own. On none of those is a passage
# near at .2, and passages too many do less harm than an answer withheld.
_UNKNOWN_SCALE = Thresholds(near=0.2, share=0.1, share_of_words=0.1)


@dataclass(frozen=True, slots=True)
class _Found:
    """A passage, its terms, and what share of the question it holds."""

    passage: Passage
    terms: Terms
    share: float


def is_relevant(
    question: str,
    passages: Sequence[Passage],
    *,
    embedding_model: str,
    idf: Callable[[Ids], NDArray[np.float32]],
    cosines: NDArray[np.float32] | None = None,
) -> bool:
    """
    Whether any passage is relevant by its embedding model's thresholds.

    `cosines` are the question's to every chunk of the base, in any order; None without
    a vector of the question.
    """
    thresholds = _THRESHOLDS.get(embedding_model, _UNKNOWN_SCALE)
    overlap = Overlap(question, idf=idf)
    spaced = is_spaced(terms_of(question))
    every = [terms_of(passage.content) for passage in passages]
    if thresholds.across_scripts and any(is_spaced(terms) != spaced for terms in every):
        return True
    found = [
        _Found(passage, terms, overlap.share(terms))
        for passage, terms in zip(passages, every, strict=True)
    ]
    if (
        embedding_model == LOCAL_E5
        and cosines is not None
        and len(cosines) >= _NEAREST
        and len(found) >= _COMPARED
    ):
        return _stands_out(found, overlap, cosines, spaced=spaced)
    most = max((each.share for each in found), default=0.0)
    return any(
        each.share
        >= thresholds.share_at(
            each.passage.dense, spaced=spaced, most=each.share == most
        )
        for each in found
    )


def _stands_out(
    found: Sequence[_Found],
    overlap: Overlap,
    cosines: NDArray[np.float32],
    *,
    spaced: bool,
) -> bool:
    """
    Whether the best passage reaches its bound, being worth its cosine and a little for
    the sentence that holds the most of the question.

    To reach it are added: how near the fifth to tenth chunks are; how much more the
    best is worth than the next three that do not copy it, or two in words; what share
    of the question the passages hold, if it is more than most hold of any.
    """
    least = _least_told(cosines)
    worths = [
        max(each.passage.dense, least) + _SENTENCE * _sentence_share(each, overlap)
        for each in found
    ]
    order = sorted(range(len(found)), key=lambda at: -worths[at])
    best = found[order[0]]
    others = [worths[at] for at in order[1:] if not _copies(found[at], best)]
    next_best = others[: _NEXT_OF_WORDS if spaced else _NEXT]
    lead = worths[order[0]] - float(np.mean(next_best or [worths[order[-1]]]))
    around = np.sort(np.partition(cosines, -_NEAREST)[-_NEAREST:])[:_AROUND]
    beyond = max(0.0, max(each.share for each in found) - _ANY)
    return float(around.mean()) + lead + _SHARE * beyond >= _bound(best, spaced=spaced)


def _bound(best: _Found, *, spaced: bool) -> float:
    if spaced:
        return _BOUND_OF_WORDS
    length = min(max(1, len(best.passage.content)), _LENGTH)
    return _BOUND + _BY_LENGTH * float(np.log(length / _LENGTH))


def _least_told(cosines: NDArray[np.float32]) -> float:
    """
    The least cosine that fusion takes into account.

    That of a passage which keywords alone have found is not told, and no greater.
    """
    if len(cosines) <= DEPTH:
        return 0.0
    return float(np.partition(cosines, -DEPTH)[-DEPTH])


def _sentence_share(found: _Found, overlap: Overlap) -> float:
    every = sentences(found.passage.content)
    return max((overlap.share(terms_of(each)) for each in every), default=0.0)


def _copies(one: _Found, other: _Found) -> bool:
    """Whether one text has much of the other, or has it all."""
    first, second = (
        np.union1d(found.terms.words, found.terms.pairs) for found in (one, other)
    )
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared >= _COPY * max(1, min(len(first), len(second)))
