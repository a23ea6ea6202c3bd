"""How many tokens a text may be, without asking a tokenizer; pure."""

from __future__ import annotations

import re

# Runs of Han with its extensions, kana, hangul, CJK punctuation, full-width forms.
_CJK = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]+"
)


def tokens(text: str) -> int:
    """A rough count: 1 a CJK character, 0.3 any other, rounded up.

    >>> tokens("你好"), tokens("hello world")
    (2, 4)
    """
    others = len(text if text.isascii() else _CJK.sub("", text))
    return len(text) - others + -(-others * 3 // 10)


def has_cjk(text: str) -> bool:
    """Whether any of it is Chinese, Japanese or Korean."""
    return _CJK.search(text) is not None
