"""Signs that Word takes out of a symbol font, as the characters they look like."""

from __future__ import annotations

_SYMBOL = (
    (0x20, " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_"),
    (0x61, "αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼"),
    (0xA1, "ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…"),
    (0xC0, "ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊⟨"),
    (0xE5, "∑"),
    (0xF1, "⟩∫"),
)
_WINGDINGS = (
    (0x6C, "●❍■□"),
    (0x71, "❑❒"),
    (0x75, "◆❖"),
    (0x78, "☒"),
    (0x80, "⓪①②③④⑤⑥⑦⑧⑨⑩⓿❶❷❸❹❺❻❼❽❾❿"),
    (0x9E, "·•"),
    (0xA1, "○"),
    (0xA7, "▪☐"),
    (0xAB, "★"),
    (0xD8, "➢"),
    (0xDF, "←→↑↓"),
    (0xE8, "➔"),
    (0xEF, "⇦⇨⇧⇩⇔"),
    (0xFB, "✗✓☒☑"),
)
_WINGDINGS_2 = ((0x4F, "✗✓☒☑☒☒"), (0x97, "●"), (0xA3, "☐"))
_WINGDINGS_3 = ((0x21, "←→↑↓"), (0x70, "▲▼△▽◀▶◁▷"))


def symbol(font: str, code: str) -> str:
    """
    A sign of `font`, its code as Word writes it; "" for one that is not known.

    >>> symbol("Wingdings", "F0FC") + symbol("Symbol", "F061") + symbol("Arial", "00B1")
    '✓α±'
    """
    try:
        number = int(code, 16)
    except ValueError:
        return ""
    known = _FONTS.get(font.lower())
    if known is not None:
        return known.get(number & 0xFF, "") if number >> 8 in {0, 0xF0} else ""
    return chr(number) if 0x20 <= number < 0xD800 and chr(number).isprintable() else ""


_FONTS = {
    font: {
        start + place: sign
        for start, signs in spans
        for place, sign in enumerate(signs)
    }
    for font, spans in (
        ("symbol", _SYMBOL),
        ("wingdings", _WINGDINGS),
        ("wingdings 2", _WINGDINGS_2),
        ("wingdings 3", _WINGDINGS_3),
    )
}
