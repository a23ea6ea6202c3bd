"""How long text is for a chunk, and the pieces a long paragraph can be cut into."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Span = tuple[int, int]

# One Chinese character says about as much as three letters: Han, kana, Hangul, and the
# punctuation and full-width forms that go with them.
_CJK = re.compile(
    "[\\u1100-\\u11ff\\u2e80-\\u9fff\\ua960-\\ua97f\\uac00-\\ud7ff\\uf900-\\ufaff"
    "\\ufe30-\\ufe4f\\uff00-\\uffef\\U0001b000-\\U0001b16f\\U00020000-\\U000323af]"
)
_CLOSING = "”’」』）》】〕\"')\\]"
# The look-behind keeps a long run of full stops from being tried at each of them.
_SENTENCE_END = re.compile(
    f"[。！？；…]+[{_CLOSING}]*|(?<![.!?;])[.!?;]+[{_CLOSING}]*(?=\\s)|\n\\s*\n"
)
_CLAUSE_END = re.compile(r"[，、：,:]+|\s+")
_LINE_END = re.compile("\n")
# What has no place of its own: a cut before it would tear a letter apart.
_MARK = re.compile(
    "[\u0300-\u036f\u200d\u3099\u309a\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """
    How long a chunk may be: characters of Chinese, Japanese and Korean, or of others.

    Mixed text is weighed by its share of both. `overlap_percent` of that is repeated
    where a paragraph is cut.
    """

    cjk: int = 400
    latin: int = 1100
    overlap_percent: int = 15


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a paragraph; `is_line`: it begins a line, so nothing need be repeated."""

    start: int
    end: int
    is_line: bool = False


class Measured:
    """
    A text, and the cost of its parts in whole numbers.

    A chunk may cost `limit`, `repeated` of it for what the last chunk held, too.
    """

    def __init__(self, text: str, sizes: Sizes) -> None:
        self.text = text
        self.limit = sizes.cjk * sizes.latin
        self.repeated = self.limit * sizes.overlap_percent // 100
        self._cjk, self._other = sizes.latin, sizes.cjk

    def cost(self, start: int, end: int) -> int:
        """What `text[start:end]` takes of the limit."""
        part = self.text[start:end]
        cjk = 0 if part.isascii() else len(part) - len(_CJK.sub("", part))
        return cjk * self._cjk + (len(part) - cjk) * self._other

    def pieces(self, start: int, end: int, *, by_line: bool) -> Iterator[Piece]:
        """Lines, if they mean something; sentences of what is long; parts of those."""
        lines = self._split(start, end, _LINE_END) if by_line else [(start, end)]
        for line in lines:
            is_line = True
            for piece in self._sentences(*line):
                yield Piece(*piece, is_line)
                is_line = False

    def _sentences(self, start: int, end: int) -> Iterator[Span]:
        if self.cost(start, end) <= self.limit // 4:
            yield start, end
            return
        for sentence in self._split(start, end, _SENTENCE_END):
            yield from self._clauses(*sentence)

    def _clauses(self, start: int, end: int) -> Iterator[Span]:
        room = self.limit - self.repeated
        if self.cost(start, end) <= room:
            yield start, end
            return
        for clause in self._split(start, end, _CLAUSE_END):
            if self.cost(*clause) <= room:
                yield clause
            else:
                yield from self._cut(*clause, room)

    def _cut(self, start: int, end: int, room: int) -> Iterator[Span]:
        """Parts of at most `room`, where nothing says where to cut."""
        while start < end:
            cut = self._forward(start, end, room)
            yield start, cut
            start = cut

    def _forward(self, start: int, end: int, room: int) -> int:
        """Where a part that costs at most `room`, or is one character, ends."""
        at = start
        dearest = max(self._cjk, self._other)
        while at < end and (further := min(at + max(room // dearest, 1), end)):
            cost = self.cost(at, further)
            if cost > room:
                break
            at, room = further, room - cost
        whole = at
        while start < whole < end and at - whole < 8 and _MARK.match(self.text, whole):
            whole -= 1  # A mark stays with its letter.
        return max(whole, start + 1)

    def last_clauses(self, start: int, end: int, room: int) -> int:
        """Where in `start`..`end` the last clauses begin that cost at most `room`."""
        at = end
        while at > start and (room := room - self.cost(at - 1, at)) >= 0:
            at -= 1
        clause = _CLAUSE_END.search(self.text, at, end)
        return clause.end() if clause and clause.end() < end else at

    def _split(self, start: int, end: int, after: re.Pattern[str]) -> Iterator[Span]:
        """The parts of `start`..`end` that are not blank, stripped of blanks."""
        first = start
        for match in after.finditer(self.text, start, end):
            yield from self._stripped(first, match.end())
            first = match.end()
        yield from self._stripped(first, end)

    def _stripped(self, start: int, end: int) -> Iterator[Span]:
        part = self.text[start:end]
        start += len(part) - len(part.lstrip())
        end -= len(part) - len(part.rstrip())
        if start < end:
            yield start, end
