"""The sentences of passages that best answer a question, without a model; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.overlap import Overlap
from rag.terms import Ids, terms_of

LONGEST = 400
_END = re.compile("(?<=[。！？；!?])|(?<=[.;])(?=\\s)|\n+")


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence of passage number `source`, counted from 1."""

    source: int
    text: str


def best_sentences(
    question: str,
    passages: Sequence[str],
    *,
    idf: Callable[[Ids], NDArray[np.float32]],
    most: int = 2,
) -> list[Quote]:
    """
    At most `most` sentences, best first, of passages that come best first.

    A sentence is worth the share of the question that it holds, a little less the later
    its passage comes and the longer it is; one that holds nothing is not quoted.
    """
    overlap = Overlap(question, idf=idf)
    scored: list[tuple[float, Quote]] = []
    for source, passage in enumerate(passages, start=1):
        for sentence in sentences(passage):
            worth = overlap.share(terms_of(sentence))
            damped = worth / (1 + 0.1 * (source - 1)) / (1 + len(sentence) / 1000)
            scored.append((damped, Quote(source, sentence)))
    scored.sort(key=lambda item: -item[0])
    return [quote for worth, quote in scored[:most] if worth > 0]


def sentences(text: str) -> list[str]:
    """A text's sentences, Chinese and Latin, without the blanks around; none empty.

    >>> sentences("合同生效。双方签字! It ends. Now")
    ['合同生效。', '双方签字!', 'It ends.', 'Now']
    """
    parts = (part.strip() for part in _END.split(text))
    return [part[:LONGEST] for part in parts if part]
