"""The characters of scripts that are written without spaces between words."""

from __future__ import annotations

import numpy as np

# Thai, Lao, Burmese, Khmer; kana, Bopomofo, Han, with Hangul among them because its
# words carry their particles.
RANGES = (
    ("\u0e01", "\u0e3a"), ("\u0e40", "\u0e4e"), ("\u0e81", "\u0ece"),
    ("\u1000", "\u109d"), ("\u1100", "\u11ff"), ("\u1780", "\u17d3"),
    ("\u3005", "\u3007"), ("\u3041", "\u3096"), ("\u3099", "\u309f"),
    ("\u30a1", "\u30fa"), ("\u30fc", "\u312f"), ("\u3131", "\u318e"),
    ("\u31a0", "\u31bf"), ("\u31f0", "\u31ff"), ("\u3400", "\u4dbf"),
    ("\u4e00", "\u9fff"), ("\uac00", "\ud7a3"), ("\uf900", "\ufaff"),
    ("\U0001b000", "\U0001b16f"), ("\U00020000", "\U000323af"),
)  # fmt: skip

# Of every code point, whether it is one.
UNSPACED = np.zeros(0x110000, np.bool)
for _first, _last in RANGES:
    UNSPACED[ord(_first) : ord(_last) + 1] = True
UNSPACED.flags.writeable = False

# What goes on a word although `\w` leaves it out: the marks of Hebrew, Arabic and
# Indic words.
MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
