"""Make a model's text storable: whole code points, no NUL; pure."""

from __future__ import annotations

import re

_UNCLEAN = re.compile("[\x00\ud800-\udfff]")
_HIGH_HALF = re.compile("[\ud800-\udbff]\\Z")


class Hygiene:
    """
    Text that comes in pieces, cleaned so that the pieces still join up.

    A provider may cut an emoji between its two UTF-16 halves. The first half waits
    for the second; a half that stays alone becomes U+FFFD. NUL, which PostgreSQL
    cannot store, is dropped. `half` is what waits, or empty.

    >>> hygiene = Hygiene()
    >>> hygiene.feed("Hi \\ud83d") + hygiene.feed("\\ude00!")
    'Hi 😀!'
    """

    __slots__ = ("half",)

    def __init__(self) -> None:
        self.half = ""

    def feed(self, text: str) -> str:
        """The part of the text so far that is now certain and not yet given."""
        if not self.half and _is_clean(text):
            return text
        text = self.half + text.replace("\x00", "")
        self.half = text[-1] if _HIGH_HALF.search(text) else ""
        return _joined(text.removesuffix(self.half))

    def flush(self) -> str:
        """What is left at the end: nothing, or U+FFFD for a half left alone."""
        half, self.half = self.half, ""
        return _joined(half) if half else ""


def cleaned(text: str) -> str:
    """A text that is all there."""
    if _is_clean(text):
        return text
    hygiene = Hygiene()
    return hygiene.feed(text) + hygiene.flush()


def _is_clean(text: str) -> bool:
    if text.isascii():  # Known of every string, where a search is code of its own.
        return "\x00" not in text
    return not _UNCLEAN.search(text)


def _joined(text: str) -> str:
    """UTF-16 halves joined into code points, lone ones replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
