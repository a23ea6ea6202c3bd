"""
Text to tokens, as multilingual-e5-small was trained on them.

SentencePiece's unigram model (Kudo 2018, https://arxiv.org/abs/1804.10959): of all ways
to put a text together from the vocabulary's pieces, the likeliest.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from llmbackend.local.e5_weights import Vocabulary

_SPACE = "\u2581"  # Begins every word's first piece.
_UNKNOWN_PENALTY = 10.0  # How much less likely than the rarest piece; SentencePiece's.


class Tokenizer:
    """Turns texts into at most `limit` ids each, the ids of start and end included."""

    def __init__(self, vocabulary: Vocabulary, *, limit: int) -> None:
        self._vocabulary = vocabulary
        self._limit = limit
        scores = vocabulary.log_probabilities
        # A piece without a probability, as <s>, is a signal and no text.
        self._ids = {p: i for i, p in enumerate(vocabulary.pieces) if scores[i] < 0}
        self._unknown_score = min(scores) - _UNKNOWN_PENALTY
        self._longest = _longest_by_beginning(self._ids)
        # No text beyond as many pieces of the greatest length can count.
        self._characters = limit * max(self._longest.values())

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text of any length, in time that is bounded for all of them."""
        pieces = self._pieces(self._normalized(text))[: self._limit - 2]
        vocabulary = self._vocabulary
        return np.array([vocabulary.start, *pieces, vocabulary.end], np.int32)

    def _normalized(self, text: str) -> str:
        # Cut before: NFKC takes quadratic time for a run of combining marks. And after:
        # one character can become 18.
        text = unicodedata.normalize("NFKC", text[: self._characters])
        words = text.translate(self._vocabulary.replacements).split()
        return "".join(_SPACE + word for word in words)[: self._characters]

    def _pieces(self, text: str) -> list[int]:
        """The ids of the likeliest pieces, found from left to right (Viterbi)."""
        ids, scores = self._ids, self._vocabulary.log_probabilities
        size = len(text)
        # For each border in the text: the score of the best way there, where its last
        # piece begins, and that piece.
        best = [0.0] + [-math.inf] * size
        begins = [0] * (size + 1)
        pieces = [0] * (size + 1)
        for begin in range(size):
            here = best[begin]
            if here + self._unknown_score > best[begin + 1]:
                best[begin + 1] = here + self._unknown_score
                begins[begin + 1] = begin
                pieces[begin + 1] = self._vocabulary.unknown
            longest = self._longest.get(text[begin : begin + 2], 1)
            for end in range(begin + 1, min(begin + longest, size) + 1):
                piece = ids.get(text[begin:end])
                if piece is not None and here + scores[piece] > best[end]:
                    best[end] = here + scores[piece]
                    begins[end] = begin
                    pieces[end] = piece
        return self._followed_back(begins, pieces)

    def _followed_back(self, begins: list[int], pieces: list[int]) -> list[int]:
        unknown = self._vocabulary.unknown
        found: list[int] = []
        border = len(begins) - 1
        while border > 0:
            # Neighbours that are unknown are one piece.
            if pieces[border] != unknown or found[-1:] != [unknown]:
                found.append(pieces[border])
            border = begins[border]
        return found[::-1]


def _longest_by_beginning(pieces: Iterable[str]) -> dict[str, int]:
    """The length of the longest piece that begins with one or two given characters."""
    longest: dict[str, int] = {}
    for piece in pieces:
        beginning = piece[:2]
        if len(piece) > longest.get(beginning, 0):
            longest[beginning] = len(piece)
    return longest
