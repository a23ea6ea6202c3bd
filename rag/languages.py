"""
How likely a character is in a language, roughly: enough to tell encodings apart.

The frequent characters of East Asian languages are not listed here but read from their
national standards, whose tables put them first: level 1 of GB 2312 (3,755 of them), of
Big5 (5,401) and of JIS X 0208 (2,965), and the 2,350 syllables of KS X 1001. Within a
level all count alike. The shares of the levels, of kana and of punctuation in running
text are round figures.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

# Bits, in any language: minus the binary logarithm of a probability.
_ASCII = {" ": 2.5, "\n": 6.0, "\r": 6.0, "\t": 8.0}
_LOWER, _UPPER, _DIGIT, _SIGN = 4.5, 8.0, 7.0, 7.5
_SELDOM = 16.0
_NEVER = 30.0
_BY_CATEGORY = {"Ll": 11.0, "Lu": 13.0, "Mn": 13.0, "Pd": 11.0, "Sc": 13.0, "Nd": 14.0}
# A word of Latin letters that goes on in another script.
_SWITCH = re.compile(
    "[A-Za-zÀ-ɏ](?=[Ͱ-῿\u3040-\u9fff가-힣豈-\ufaff\uff66-\uff9f\ue000-\uf8ff])"
    "|[Ͱ-῿\u3040-\u9fff가-힣豈-\ufaff\uff66-\uff9f\ue000-\uf8ff](?=[A-Za-zÀ-ɏ])"
)
_SWITCH_COST = 4.0
# A lone character of another script in a Latin text is more likely an accent misread.
_NOT_LATIN = re.compile("[\u0370-\u1dff\u2e80-\uffee\U00010000-\U0010ffff]")
_FEW = 0.1
_FEW_COST = 20.0
# In a Latin text a sign within a word, or a word of one such letter, is it, too.
_MISREAD = re.compile(
    "(?<=[a-zß-öø-ÿ])[¡-©«-¶¸-¿÷×‚„“”…†‡ˆ‰‹›•™˜€ŠŽŒŸ](?=[a-zß-öø-ÿ])"
    "|(?<![A-Za-zÀ-ɏ])[âãäçêëîïñôõöùúûüýÿľńŕů](?![A-Za-zÀ-ɏ])"
)
_MISREAD_COST = 6.0

_PUNCTUATION = "，。、；：？！“”‘’（）《》〈〉「」『』【】—…·～\u3000"
_TYPOGRAPHY = "’‘“”–—…«»•°·\u00a0", "£€§©®™½¼¾²³±×¡¿"
# The accented letters of Western Europe, the frequent and the rest;
_WESTERN = "éáíóäöüàèçñãê", "ëâåæìîïòôõøœúùûýÿßðþ"
# of its languages: French, German, Spanish, Portuguese, Italian, Catalan, Swedish and
# Finnish, Danish and Norwegian, Icelandic, Estonian, Albanian;
_WESTERN_EACH = (
    "éèêàçâîôûùïœ", "äöüß", "áéíóúñü¿¡", "áàâãçéêíóôõú", "àèéìòù", "àçèéíïòóúü",
    "åäö", "åæøé", "áæðéíóöþúý", "äöõü", "çë",
)  # fmt: skip
# of Czech, Slovak, Polish, Hungarian, Romanian, Croatian and Slovene;
_CENTRAL = (
    "ěščřžýáíéúůťďňó", "áčďéíľĺňóôŕšťúýž", "ąćęłńóśźż", "áéíóöőúüű", "ăâîșțşţ", "čćđšž",
)  # fmt: skip
# of Turkish, of Lithuanian and Latvian.
_TURKISH = ("çğıöşü",)
_BALTIC = ("ąčęėįšųūž", "āčēģīķļņšūž")


class Language:
    """The costs of characters in one language, in bits."""

    def __init__(
        self, *tiers: tuple[Iterable[str], float], latin: bool = False
    ) -> None:
        """`tiers`: characters and their share in text; the first to name one counts."""
        self._latin = latin
        self._costs: dict[str, float] = {}
        for characters, share in tiers:
            new = set(characters) - self._costs.keys()
            if not new:
                continue  # An alphabet without capitals.
            self._costs |= dict.fromkeys(new, math.log2(len(new) / share))

    def cost(self, text: str) -> float:
        """How unlikely `text` is, in bits."""
        characters = sum(
            count * (self._costs.get(character) or _common(character))
            for character, count in Counter(text).items()
        )
        return characters + self._mixture(text)

    def _mixture(self, text: str) -> float:
        """What it costs that scripts are mixed."""
        switches = sum(1 for _ in _SWITCH.finditer(text))
        not_latin = sum(1 for _ in _NOT_LATIN.finditer(text))
        misread = sum(1 for _ in _MISREAD.finditer(text)) if self._latin else 0
        few = not_latin < len(text) * _FEW and (not_latin or not self._latin)
        signs = switches * _SWITCH_COST + misread * _MISREAD_COST
        return signs + (_FEW_COST if few else 0.0)


@cache
def _common(character: str) -> float:
    """What a character costs where it belongs to no tier of the language."""
    if character.isascii():
        return _ascii(character)
    category = unicodedata.category(character)
    if category in {"Co", "Cn", "Cs", "Cc"}:
        return _NEVER
    east_asian = "\u2e80" <= character <= "\uffee" or character >= "\U00010000"
    return 22.0 if east_asian else _BY_CATEGORY.get(category, _SELDOM)


def _ascii(character: str) -> float:
    if character.islower():
        return _LOWER
    if character.isupper():
        return _UPPER
    if character.isdigit():
        return _DIGIT
    return _ASCII.get(character, _SIGN if character.isprintable() else _NEVER)


def _table(
    codec: str, leads: tuple[int, int], *trails: tuple[int, int], last: int = 0xFFFF
) -> list[str]:
    """The characters of a double-byte code's rows `leads`, up to the code `last`."""
    found = []
    for lead in range(leads[0], leads[1] + 1):
        for trail in (each for low, high in trails for each in range(low, high + 1)):
            if lead << 8 | trail > last:
                break
            try:
                found.append(bytes((lead, trail)).decode(codec))
            except UnicodeDecodeError:
                continue
    return found


def _span(first: str, last: str) -> list[str]:
    return [chr(code) for code in range(ord(first), ord(last) + 1)]


_94 = (0xA1, 0xFE)
_BIG5_TRAILS = ((0x40, 0x7E), _94)


@cache
def simplified_chinese() -> tuple[Language, ...]:
    return (
        Language(
            (_PUNCTUATION, 0.1),
            (_table("gb2312", (0xB0, 0xD7), _94), 0.87),
            (_table("gb2312", (0xD8, 0xF7), _94), 0.015),
            (_span("０", "ｚ"), 0.002),
        ),
    )


@cache
def traditional_chinese() -> tuple[Language, ...]:
    frequent = _table("big5", (0xA4, 0xC6), *_BIG5_TRAILS, last=0xC67E)
    # Its level 1 is wide; what the other standard has in level 2 is rare here, too.
    rare = set(frequent) & set(_table("gb2312", (0xD8, 0xF7), _94))
    return (
        Language(
            (_PUNCTUATION, 0.1),
            (rare, 0.02),
            (frequent, 0.85),
            (_table("big5", (0xC9, 0xF9), *_BIG5_TRAILS), 0.015),
            (_span("０", "ｚ"), 0.002),
        ),
    )


@cache
def japanese() -> tuple[Language, ...]:
    return (
        Language(
            (_PUNCTUATION, 0.08),
            (_span("ぁ", "ん"), 0.45),
            ([*_span("ァ", "ヶ"), "ー"], 0.2),
            (_table("euc_jp", (0xB0, 0xCF), _94), 0.25),
            (_table("euc_jp", (0xD0, 0xF4), _94), 0.005),
            (_span("０", "ｚ"), 0.005),
        ),
    )


@cache
def korean() -> tuple[Language, ...]:
    return (
        Language(
            (_table("euc_kr", (0xB0, 0xC8), _94), 0.95),
            (_span("가", "힣"), 0.002),
            (_table("euc_kr", (0xCA, 0xFD), _94), 0.002),
            (_PUNCTUATION, 0.01),
        ),
    )


@cache
def western() -> tuple[Language, ...]:
    often, seldom = _WESTERN
    capitals = (often + seldom.replace("ß", "")).upper()
    return (
        Language(
            (often, 0.05),
            (seldom, 0.01),
            (_TYPOGRAPHY[0], 0.03),
            (_TYPOGRAPHY[1], 0.002),
            (capitals, 0.002),
            latin=True,
        ),
        *_accented(_WESTERN_EACH, 0.06),
    )


def _accented(languages: tuple[str, ...], share: float) -> tuple[Language, ...]:
    return tuple(
        Language(
            (letters, share),
            (_TYPOGRAPHY[0], 0.03),
            (_TYPOGRAPHY[1], 0.002),
            (letters.upper(), 0.003),
            latin=True,
        )
        for letters in languages
    )


@cache
def central_european() -> tuple[Language, ...]:
    return _accented(_CENTRAL, 0.1)


@cache
def turkish() -> tuple[Language, ...]:
    return _accented(_TURKISH, 0.1)


@cache
def baltic() -> tuple[Language, ...]:
    return _accented(_BALTIC, 0.1)


@cache
def russian() -> tuple[Language, ...]:
    return (_alphabet(_span("а", "я"), "ёіїєґўћџљњђј"),)


@cache
def greek() -> tuple[Language, ...]:
    return (_alphabet(_span("α", "ω"), "άέήίόύώϊϋΐΰ"),)


@cache
def hebrew() -> tuple[Language, ...]:
    return (_alphabet(_span("א", "ת"), ""),)


@cache
def arabic() -> tuple[Language, ...]:
    return (_alphabet(_span("ء", "ي"), "،؟پچژگکی"),)


@cache
def thai() -> tuple[Language, ...]:
    return (_alphabet(_span("ก", "๎"), ""),)


def _alphabet(letters: list[str], further: str) -> Language:
    upper = "".join(letters).upper()
    return Language(
        (letters, 0.9), (further, 0.02), (_TYPOGRAPHY[0], 0.03), (upper, 0.03)
    )


EAST_ASIAN = (simplified_chinese, traditional_chinese, japanese, korean)
ALPHABETS = (
    *(western, central_european, turkish, baltic),
    *(russian, greek, hebrew, arabic, thai),
)
