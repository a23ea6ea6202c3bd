"""Text from a parser, kept within the size a document may have."""

from __future__ import annotations

import re

from llmbackend.errors import UnreadableDocument
from rag.encodings import clean
from rag.parsed import MAX_TEXT_BYTES

TOO_MUCH_TEXT = f"The document holds more than {MAX_TEXT_BYTES >> 20} MiB of text."
# Some line ends are known to Unicode alone; other control characters are no text.
_LINE_END = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Besides control characters what no one sees and no one types, but which would part a
# word in two for a search: soft hyphens, zero-width spaces, word joiners, stray marks
# of UTF. Joiners of letters stay: Persian, Hindi and emoji are spelt with them.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\xad\u200b\u2060\ufeff]")


def normal(text: str) -> str:
    r"""`text` as it is stored: lines end in \n; nothing else that cannot be seen.

    >>> normal("a\r\nb\x00\x0bc\xadd")
    'a\nb\ncd'
    """
    return _UNSEEN.sub("", _LINE_END.sub("\n", clean(text)))


class Text:
    """A growing text; raises UnreadableDocument when it grows too long."""

    def __init__(self) -> None:
        self.length = 0
        self._parts: list[str] = []
        self._bytes = 0

    def add(self, text: str) -> int:
        """Append; where it starts."""
        start = self.length
        self._parts.append(text)
        self.length += len(text)
        self._bytes += len(text.encode())
        if self._bytes > MAX_TEXT_BYTES:
            raise UnreadableDocument(TOO_MUCH_TEXT)
        return start

    def whole(self) -> str:
        """All that was added."""
        return "".join(self._parts)
