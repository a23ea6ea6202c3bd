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
    has `restarts`, of the first so many levels.
    """

    start: int = 1
    format: str = "decimal"
    text: str = ""
    restarts: int | None = None


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
        return _PLACE.sub(
            lambda place: _shown(levels, counts, int(place[1]) - 1), levels[level].text
        )


def _shown(levels: dict[int, Level], counts: list[int | None], level: int) -> str:
    form = levels.get(level, Level())
    count = counts[level]
    number = form.start if count is None else count
    if not 0 < number <= _HIGHEST:
        return str(number)
    return _FORMATS.get(form.format, str)(number)


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


def _circled(number: int) -> str:
    return chr(0x2460 + number - 1) if number <= 20 else str(number)


def _digits(number: int) -> str:
    return "".join(_DIGITS[int(digit)] for digit in str(number))


_FORMATS: dict[str, Callable[[int], str]] = {
    "chineseCounting": chinese,
    "chineseCountingThousand": chinese,
    "taiwaneseCounting": chinese,
    "taiwaneseCountingThousand": chinese,
    "japaneseCounting": chinese,
    "ideographDigital": _digits,
    "japaneseDigitalTenThousand": _digits,
    "decimalEnclosedCircle": _circled,
    "decimalEnclosedCircleChinese": _circled,
    "decimalZero": lambda number: f"{number:02}",
    "upperRoman": roman,
    "lowerRoman": lambda number: roman(number).lower(),
    "upperLetter": letters,
    "lowerLetter": lambda number: letters(number).lower(),
    "none": lambda _number: "",
}
