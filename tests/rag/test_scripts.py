"""Whether a text is written in words, by its terms and by its stored row alike."""

from __future__ import annotations

import numpy as np
import pytest

from rag.keyword import KeywordIndex
from rag.scripts import is_spaced
from rag.terms import pack_terms, terms_of

SPACED = [
    "The tenant pays a deposit of two months' rent.",
    "Hallo Welt",
    "Договор аренды заключается в письменной форме.",
    "يبرم عقد الإيجار كتابة.",
    "The character 猫 means cat, and 狗 means dog.",
    "4711",
    "",
]
UNSPACED = [
    "承租人应当按照约定的期限支付租金。",
    "承租人應當按照約定的期限支付租金。",
    "賃借人は、約定した時期に賃料を支払わなければならない。",
    "세입자는 정해진 날에 임대료를 낸다.",
    "ผู้เช่าต้องชำระค่าเช่าตามกำหนด",
    "错误 E4711 出现在 Windows 的启动过程中",
    "猫",
]


@pytest.mark.parametrize("text", SPACED + UNSPACED)
def test_a_row_says_what_its_text_says(text):
    [unspaced] = KeywordIndex.build([pack_terms(text)]).unspaced

    assert unspaced == (not is_spaced(terms_of(text)) and text != "")
    assert unspaced == (text in UNSPACED)


def test_rows_are_told_in_their_order():
    rows = [pack_terms(text) for text in SPACED * 100 + UNSPACED * 100]

    told = KeywordIndex.build(rows).unspaced

    assert told.tolist() == [False] * 700 + [True] * 700


def test_no_long_text_of_rare_words_is_taken_for_one_without_spaces():
    """Though some of the words' ids pass for those of characters."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    random = np.random.default_rng(7)
    texts = [
        " ".join("".join(random.choice(letters, 7)) for _ in range(words))
        for words in (3, 10, 30, 100, 300)
        for _ in range(40)
    ]

    assert not KeywordIndex.build([pack_terms(text) for text in texts]).unspaced.any()
