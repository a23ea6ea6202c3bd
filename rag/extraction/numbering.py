"""The numbers Word shows before paragraphs and keeps out of their text: 第一条, 2.1."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

_LEVELS = 9
_HIGHEST = 99_999
_PLACE = re.compile(r"%([1-9])")
_DIGITS = "〇一二三四五六七八九"


@dataclass(slots=True)
class Level:
    """
    How one level of a list is numbered; `text` has `%1` for the first level's.

    It is counted from `start` again after each paragraph of a level above it or, if it
    has `restarts`, of the first so many levels. One that is `legal` shows the numbers
    of all levels in decimal: 第一章, and in it 1.1.
    """

    start: int = 1
    format: str = "decimal"
    text: str = ""
    restarts: int | None = None
    legal: bool = False


@dataclass(slots=True)
class Numbering:
    """
    A document's lists, by their id, and how far each has been counted.

    Those with the same `abstract` are one list and counted on, but for the levels that
    `begins` anew with the first paragraph of an id.
    """

    levels: dict[str, dict[int, Level]] = field(default_factory=dict)
    abstract: dict[str, str] = field(default_factory=dict)
    begins: dict[str, set[int]] = field(default_factory=dict)
    _counts: dict[str, list[int | None]] = field(default_factory=dict)

    def next_label(self, number_id: str, level: int) -> str:
        """What stands before the list's next paragraph of this level; often nothing."""
        levels = self.levels.get(number_id)
        if levels is None or level not in levels or not 0 <= level < _LEVELS:
            return ""
        abstract = self.abstract.get(number_id, number_id)
        counts = self._counts.setdefault(abstract, [None] * _LEVELS)
        begun = self.begins.pop(number_id, set())
        counts[:] = [
            None if at in begun else so_far for at, so_far in enumerate(counts)
        ]
        count = counts[level]
        counts[level] = levels[level].start if count is None else count + 1
        for below in range(level + 1, _LEVELS):
            restarts = levels.get(below, Level()).restarts
            if restarts is None or level < restarts:
                counts[below] = None
        if levels[level].format == "bullet":
            return "•"
        own = levels[level]

        def shown(place: re.Match[str]) -> str:
            at = int(place[1]) - 1
            form, count = levels.get(at, Level()), counts[at]
            number = form.start if count is None else count
            return _shown(number, "decimal" if own.legal else form.format)

        return _PLACE.sub(shown, own.text)


def _shown(number: int, form: str) -> str:
    if not 0 < number <= _HIGHEST:
        return str(number)
    return _FORMATS.get(form, str)(number)


def chinese(number: int) -> str:
    """A whole number in Chinese numerals, up to 99,999.

    >>> [chinese(number) for number in [7, 10, 12, 20, 105, 110, 1260, 20003]]
    ['七', '十', '十二', '二十', '一百零五', '一百一十', '一千二百六十', '二万零三']
    """
    said, gap = "", False
    for value, name in ((10_000, "万"), (1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, value)
        if not digit:
            gap = bool(said)
            continue
        said += ("零" if gap else "") + _DIGITS[digit] + name
        gap = False
    return said[1:] if said.startswith("一十") else said


def roman(number: int) -> str:
    """A Roman numeral.

    >>> [roman(number) for number in [4, 9, 14, 1990]]
    ['IV', 'IX', 'XIV', 'MCMXC']
    """
    said = ""
    for value, sign in _ROMAN:
        count, number = divmod(number, value)
        said += sign * count
    return said


_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def letters(number: int) -> str:
    """A, B ... Z, AA, BB, as Word counts.

    >>> [letters(number) for number in [1, 26, 27]]
    ['A', 'Z', 'AA']
    """
    turn, letter = divmod(number - 1, 26)
    return chr(ord("A") + letter) * min(turn + 1, 10)


def legal_chinese(number: int) -> str:
    """A whole number in the Chinese numerals of contracts and cheques.

    >>> [legal_chinese(number) for number in [3, 10, 12, 205]]
    ['叁', '壹拾', '壹拾贰', '贰佰零伍']
    """
    leading = "一" if 10 <= number < 20 else ""
    return (leading + chinese(number)).translate(_LEGAL)


_LEGAL = str.maketrans("一二三四五六七八九十百千万", "壹贰叁肆伍陆柒捌玖拾佰仟萬")


def _from(first: int, *, most: int) -> Callable[[int], str]:
    """Signs that follow one another in Unicode; beyond the last, the number."""
    return lambda number: chr(first + number - 1) if number <= most else str(number)


def _of(signs: str) -> Callable[[int], str]:
    return lambda number: signs[number - 1] if number <= len(signs) else str(number)


def _digits(number: int) -> str:
    return "".join(_DIGITS[int(digit)] for digit in str(number))


_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
_FORMATS: dict[str, Callable[[int], str]] = {
    "chineseCounting": chinese,
    "chineseCountingThousand": chinese,
    "taiwaneseCounting": chinese,
    "taiwaneseCountingThousand": chinese,
    "japaneseCounting": chinese,
    "ideographDigital": _digits,
    "japaneseDigitalTenThousand": _digits,
    "chineseLegalSimplified": legal_chinese,
    "ideographTraditional": _of("甲乙丙丁戊己庚辛壬癸"),
    "ideographZodiac": _of("子丑寅卯辰巳午未申酉戌亥"),
    "ideographEnclosedCircle": _from(0x3280, most=10),
    "decimalEnclosedCircle": _from(0x2460, most=20),
    "decimalEnclosedCircleChinese": _from(0x2460, most=20),
    "decimalEnclosedParen": _from(0x2474, most=20),
    "decimalEnclosedFullstop": _from(0x2488, most=20),
    "decimalFullWidth": lambda number: str(number).translate(_FULL_WIDTH),
    "decimalZero": lambda number: f"{number:02}",
    "upperRoman": roman,
    "lowerRoman": lambda number: roman(number).lower(),
    "upperLetter": letters,
    "lowerLetter": lambda number: letters(number).lower(),
    "none": lambda _number: "",
}
