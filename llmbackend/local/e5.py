"""
Embeddings by multilingual-e5-small (https://arxiv.org/abs/2402.05672), in numpy.

A BERT encoder: word, position and type vectors; layers of attention and feed-forward;
the mean over a text's tokens, at unit length. BLAS takes its number of threads from the
environment (`OPENBLAS_NUM_THREADS`) when numpy is first imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmbackend.local.e5_tokens import Tokenizer
from llmbackend.local.e5_weights import Floats, WeightFile, unpacked

Tokens = NDArray[np.int32]

# The sizes that were fastest, by a few per cent.
_GROUP_TOKENS = 512  # Computed together.
_CACHED_ROWS = 64  # What several steps in a row are to find in the processor's cache.
_SLICE = 128  # Outputs of one product: BLAS copies a wide weight for every short text.


class E5:
    """
    The loaded model; any number of threads may use it.

    Raises DamagedWeights for what is not its weight file, and OSError.
    """

    def __init__(self, path: Path) -> None:
        file = WeightFile(path)
        shape = file.shape
        self._words = file.blocks("emb.word", columns=shape.hidden)
        # Every token is of the first type.
        token_type = file.vector("emb.type")[: shape.hidden]
        self._positions = file.vector("emb.pos").reshape(-1, shape.hidden) + token_type
        self._norm = _norm(file, "emb.ln")
        self._layers = [_layer(file, f"l{i}") for i in range(shape.layers)]
        self._tokenizer = Tokenizer(file.vocabulary, limit=shape.positions)
        self.dimension = shape.hidden

    def embed(
        self, texts: Sequence[str], *, kind: Literal["query", "passage"]
    ) -> Floats:
        """
        One row of unit length for each text: (texts, 384).

        A question and what may answer it are of different kinds. Of a text, only the
        first 512 tokens count; an empty one has an embedding too.
        """
        tokens = [self._tokenizer.encode(f"{kind}: {text}") for text in texts]
        embeddings = np.empty((len(tokens), self.dimension), np.float32)
        for group in _groups([len(ids) for ids in tokens]):
            embeddings[group] = self._embed_group(tokens[group])
        return embeddings

    def _embed_group(self, tokens: list[Tokens]) -> Floats:
        # The texts lie one after another, without padding: attention alone has to know
        # where each of them begins.
        borders = np.cumsum([0, *map(len, tokens)]).tolist()
        x = unpacked(self._words[np.concatenate(tokens)])
        x += np.concatenate([self._positions[: len(ids)] for ids in tokens])
        self._norm.apply(x)
        for layer in self._layers:
            layer.apply(x, borders)
        # The sum points where the mean does.
        sums = np.add.reduceat(x, borders[:-1])
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums


def _groups(lengths: list[int]) -> Iterator[slice]:
    """
    What to compute together: texts that have at most _GROUP_TOKENS together, or one.

    >>> list(_groups([200, 30, 600, 300]))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    begin = total = 0
    for i, length in enumerate(lengths):
        if i > begin and total + length > _GROUP_TOKENS:
            yield slice(begin, i)
            begin, total = i, 0
        total += length
    if lengths:
        yield slice(begin, len(lengths))


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Floats  # (slices, inputs, _SLICE)
    bias: Floats

    @classmethod
    def of(cls, weight: Floats, bias: Floats) -> _Linear:
        """From a weight of (inputs, outputs)."""
        slices = weight.reshape(len(weight), -1, _SLICE).transpose(1, 0, 2)
        return cls(np.ascontiguousarray(slices), bias)

    def __call__(self, x: Floats) -> Floats:
        y = np.empty((len(x), len(self.bias)), np.float32)
        slices = y.reshape(len(x), -1, _SLICE).transpose(1, 0, 2)
        np.matmul(x, self.weight, out=slices)
        y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class _Norm:
    """Layer normalisation, in place."""

    weight: Floats
    bias: Floats
    epsilon: np.float32
    mean: Floats  # As a product with this: BLAS sums faster than numpy does.

    def apply(self, x: Floats) -> None:
        x -= (x @ self.mean)[:, np.newaxis]
        deviation = np.sqrt((x * x) @ self.mean + self.epsilon)
        x /= deviation[:, np.newaxis]
        x *= self.weight
        x += self.bias


@dataclass(frozen=True, slots=True)
class _Layer:
    heads: int
    queries_keys_values: _Linear
    attended: _Linear
    attention_norm: _Norm
    widen: _Linear
    narrow: _Linear
    output_norm: _Norm

    def apply(self, x: Floats, borders: list[int]) -> None:
        """Replace (tokens, hidden) by what this layer makes of it."""
        projected = self.queries_keys_values(x)
        contexts = [_attend(projected[a:b], self.heads) for a, b in pairwise(borders)]
        x += self.attended(np.concatenate(contexts))
        self.attention_norm.apply(x)
        wide = self.widen(x)
        for begin in range(0, len(wide), _CACHED_ROWS):
            _double_gelu(wide[begin : begin + _CACHED_ROWS])
        x += self.narrow(wide)
        self.output_norm.apply(x)


def _attend(projected: Floats, heads: int) -> Floats:
    """Attention inside one text: (tokens, 3 * hidden) to (tokens, hidden)."""
    tokens = len(projected)
    by_head = projected.reshape(tokens, 3, heads, -1).transpose(1, 2, 0, 3)
    queries, keys, values = by_head
    # (heads, keys, queries): numpy is quicker at the maximum of rows than in each row.
    scores: Floats = keys @ queries.transpose(0, 2, 1)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    contexts: Floats = values.transpose(0, 2, 1) @ scores
    contexts /= scores.sum(axis=1, keepdims=True)
    return contexts.transpose(2, 0, 1).reshape(tokens, -1)


def _double_gelu(x: Floats) -> None:
    """
    Twice GELU, by its tanh form, in place (Hendrycks and Gimpel, arXiv:1606.08415).

    >>> x = np.array([-1, 0, 1], np.float32)
    >>> _double_gelu(x)
    >>> [round(float(twice) / 2, 3) for twice in x]
    [-0.159, 0.0, 0.841]
    """
    inner = x * x
    inner *= _GELU_CUBE
    inner += _GELU_SCALE
    inner *= x
    np.tanh(inner, out=inner)
    inner += 1
    x *= inner


_GELU_SCALE = np.float32(np.sqrt(2 / np.pi))
_GELU_CUBE = np.float32(0.044715 * np.sqrt(2 / np.pi))


def _layer(file: WeightFile, name: str) -> _Layer:
    wide = file.shape.feed_forward
    # Halved here once: what comes in is twice GELU.
    narrow = file.matrix(f"{name}.fo.w", columns=wide).T * np.float32(0.5)
    return _Layer(
        heads=file.shape.heads,
        queries_keys_values=_queries_keys_values(file, name),
        attended=_linear(file, f"{name}.ao"),
        attention_norm=_norm(file, f"{name}.aln"),
        widen=_linear(file, f"{name}.fi"),
        narrow=_Linear.of(narrow, file.vector(f"{name}.fo.b")),
        output_norm=_norm(file, f"{name}.oln"),
    )


def _queries_keys_values(file: WeightFile, name: str) -> _Linear:
    hidden = file.shape.hidden
    weights = [file.matrix(f"{name}.{part}.w", columns=hidden).T for part in "qkv"]
    biases = [file.vector(f"{name}.{part}.b") for part in "qkv"]
    # The scale of attention, 1 / sqrt(a head's width), is part of the queries.
    scale = np.float32(np.sqrt(file.shape.heads / hidden))
    weights[0] *= scale
    biases[0] = biases[0] * scale
    return _Linear.of(np.hstack(weights), np.hstack(biases))


def _linear(file: WeightFile, name: str) -> _Linear:
    weight = file.matrix(f"{name}.w", columns=file.shape.hidden).T
    return _Linear.of(weight, file.vector(f"{name}.b"))


def _norm(file: WeightFile, name: str) -> _Norm:
    hidden = file.shape.hidden
    return _Norm(
        weight=file.vector(f"{name}.w"),
        bias=file.vector(f"{name}.b"),
        epsilon=np.float32(file.shape.epsilon),
        mean=np.full(hidden, 1 / hidden, np.float32),
    )
