"""A text's terms: found, stemmed, hashed for good, stored and read back."""

from __future__ import annotations

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rag.terms import (
    LONGEST_WORD,
    MOST,
    RECORD,
    pack_terms,
    question_terms,
    stem,
    terms_of,
    unpack,
)

CONTRACT = "合同约定的违约金为 10,000 元；Party B shall pay within 30 days. " * 8


def counts(text: str) -> dict[int, int]:
    return dict(np.frombuffer(pack_terms(text), RECORD).tolist())


def words(text: str) -> list[int]:
    ids: list[int] = terms_of(text).words.tolist()
    return ids


def test_a_text_has_the_row_it_has_always_had():
    row = pack_terms("Cats and 猫和猫")

    assert row.hex(" ", 5).split() == [
        "6d9bf50701",
        "fd0ce21d01",
        "b609332301",
        "4982f28e02",
        "a8435e9e01",
        "4130659f01",
    ]


def test_a_run_of_chinese_gives_its_characters_and_its_pairs():
    terms = terms_of("违约金，金")

    assert len(terms.characters) == 4
    assert terms.characters[2] == terms.characters[3]
    assert len(terms.pairs) == 2
    assert len(set(terms.pairs.tolist()) | set(terms.characters.tolist())) == 5
    assert not len(terms.words)


def test_a_pair_knows_its_order():
    assert terms_of("上海").pairs[0] != terms_of("海上").pairs[0]


@pytest.mark.parametrize("text", ["ภาษา", "かな", "カナ", "한국", "𠀀𠀁", "ខ្មែរ"])
def test_scripts_without_spaces_are_read_by_character(text):
    terms = terms_of(text)

    assert len(terms.characters) >= 2
    assert len(terms.pairs) == len(terms.characters) - 1
    assert not len(terms.words)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＡＢＣ１２", "abc12"),
        ("CITIES", "city"),
        ("Straße", "STRASSE"),
        ("ﾊﾟｽ", "パス"),
        ("foo_bar", "foo bar"),
        ("cafe\u0301", "café"),
    ],
)
def test_spellings_of_one_word_are_one_term(one, other):
    assert counts(one) == counts(other)


@pytest.mark.parametrize(
    ("text", "number"),
    [("iPhone手机", 1), ("GPT-4 in 2019年", 4), ("हिन्दी में", 2), ("…!?—", 0), ("", 0)],
)
def test_words_end_where_words_end(text, number):
    assert len(words(text)) == number


def test_numbers_are_kept_apart():
    assert len(set(words("1998 1999 10 100"))) == 4


@pytest.mark.parametrize(
    ("word", "root"),
    [
        ("policies", "polici"),
        ("policy", "polici"),
        ("classes", "class"),
        ("class", "class"),
        ("stopped", "stop"),
        ("telling", "tell"),
        ("sing", "sing"),
        ("thing", "thing"),
        ("this", "this"),
        ("status", "status"),
        ("quickly", "quick"),
        ("writing", "writ"),
        ("write", "writ"),
        ("los", "los"),
        ("größe", "größe"),
    ],
)
def test_english_endings_go_where_a_root_remains(word, root):
    assert stem(word) == root


def test_a_word_of_any_length_is_cut():
    assert words("x" * LONGEST_WORD + "y") == words("x" * LONGEST_WORD)


def test_a_count_stays_within_a_byte():
    assert list(counts("cat " * (MOST + 45)).values()) == [MOST]


def test_a_row_is_ascending_records_of_five_bytes():
    row = np.frombuffer(pack_terms(CONTRACT), RECORD)

    assert RECORD.itemsize == 5
    assert (np.diff(row["id"].astype(np.int64)) > 0).all()


@given(st.lists(st.text(max_size=40), max_size=6))
def test_rows_unpack_to_what_each_text_holds(texts):
    rows = [pack_terms(text) for text in texts]

    unpacked = unpack([memoryview(row) for row in rows])

    assert unpacked.sizes.tolist() == [len(counts(text)) for text in texts]
    expected = [pair for text in texts for pair in counts(text).items()]
    ids, number = unpacked.ids.tolist(), unpacked.counts.tolist()
    assert list(zip(ids, number, strict=True)) == expected


@given(st.text(st.characters(), max_size=60))
def test_any_text_has_as_many_terms_as_occurrences(text):
    terms = terms_of(text)

    occurrences = len(terms.words) + len(terms.characters) + len(terms.pairs)
    assert sum(counts(text).values()) == occurrences
    # NFKC may leave a text that is longer than it came, but of no other terms.
    assert counts(unicodedata.normalize("NFKC", text)) == counts(text)


def test_half_a_record_is_refused():
    with pytest.raises(ValueError, match="whole records"):
        unpack([pack_terms("cat"), pack_terms("cat")[:-1]])


def test_a_question_is_asked_by_its_telling_terms():
    asked = question_terms("What is the capital of the Sui dynasty?")

    assert asked.tolist() == sorted(words("capital sui dynasty"))


def test_common_characters_count_in_their_pairs_alone():
    asked = question_terms("合同的")

    assert set(asked.tolist()) == {*counts("合同"), *terms_of("同的").pairs.tolist()}


@pytest.mark.parametrize("question", ["Who are you?", "的", "IT部门在哪"])
def test_a_question_keeps_its_common_words_where_it_has_no_others(question):
    asked = set(question_terms(question).tolist())

    assert asked >= set(words(question))
    assert asked


def test_a_question_takes_well_under_a_millisecond():
    times = []
    for _ in range(50):
        began = time.thread_time()
        question_terms("租赁合同里关于违约金的约定是什么? What about the deposit?")
        times.append(time.thread_time() - began)

    assert min(times) < 0.001
