"""A document's lines as blocks: headings, articles of a statute, paragraphs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rag.extracted import Extracted, Heading

_NUMBER = "[零〇○一二三四五六七八九十百千万两0-9０-９]{1,9}"
# At a line's start, perhaps behind Markdown's signs for bold, list or quote.
_ARTICLE = re.compile(rf"[#>*_\-\s]*第{_NUMBER}条(?:之{_NUMBER})?(?![{{，,、的款项])")
_DIVISION = re.compile(rf"[#>*_\s]*第{_NUMBER}(分编|编|章|节)(?=[\s*_]|$)")
_DIVISIONS = {"编": 1, "分编": 2, "章": 3, "节": 4}
_LONGEST_DIVISION = 60
_LONGEST_TITLE = 200
_CLOSING_SIGNS = re.compile(r"\s#+\s*$")
_LOOKED_AT = 5_000


@dataclass(frozen=True, slots=True)
class Block:
    """
    Lines that belong together, without the blanks around them.

    `is_wrapped`: its line ends mean nothing. `is_article`: it begins an article.
    """

    start: int
    end: int
    heading: Heading | None = None
    is_article: bool = False
    is_wrapped: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int
    follows_blank: bool


def blocks_of(document: Extracted) -> Iterator[Block]:
    """All that is not blank, in order."""
    text = document.text
    lines = list(_lines(text))
    headings = _headings(document, lines)
    is_wrapped = _wrapped(text, lines)
    each_is_paragraph = not is_wrapped and not _blank_lines_matter(lines)
    start = end = -1
    is_article = False
    for line in lines:
        heading = headings.get(line.start)
        begins_article = not heading and _ARTICLE.match(text, line.start, line.end)
        ends = line.follows_blank or each_is_paragraph or heading or begins_article
        if start >= 0 and ends:
            yield Block(start, end, None, is_article, is_wrapped)
            start = -1
        if heading:
            yield Block(line.start, line.end, heading)
            continue
        if start < 0:
            start, is_article = line.start, bool(begins_article)
        end = line.end
    if start >= 0:
        yield Block(start, end, None, is_article, is_wrapped)


def _lines(text: str) -> Iterator[_Line]:
    last_end = 0
    for match in _LINE.finditer(text):
        line = match.group()
        start = match.start() + len(line) - len(line.lstrip())
        end = match.end() - (len(line) - len(line.rstrip()))
        if start < end:
            yield _Line(start, end, text.count("\n", last_end, start) > 1)
            last_end = end


_LINE = re.compile("[^\n]+")


def _headings(document: Extracted, lines: Sequence[_Line]) -> dict[int, Heading]:
    """By where they start: the document's own, and the divisions of a statute."""
    text = document.text
    if not any(_ARTICLE.match(text, line.start, line.end) for line in lines):
        return {heading.start: heading for heading in document.headings}
    # A part, a chapter and a section stand below whatever title a document has.
    below = max(
        (each.level for each in document.headings if each.level <= 1), default=0
    )
    found = {}
    for line in lines:
        division = _DIVISION.match(text, line.start, line.end)
        if division and line.end - line.start <= _LONGEST_DIVISION:
            level = below + _DIVISIONS[division.group(1)]
            title = titled(text[line.start : line.end])
            found[line.start] = Heading(start=line.start, level=level, title=title)
    return {heading.start: heading for heading in document.headings} | found


def titled(line: str) -> str:
    """A heading's line as a title: without mark-up around it, in one line, not long.

    >>> titled("##  **Rights**  and\\tduties ##")
    'Rights and duties'
    >>> titled("# C#")
    'C#'
    """
    line = _CLOSING_SIGNS.sub("", line).lstrip("#*_ \t\u3000").rstrip("*_ \t\u3000")
    words = line.replace("**", "").split()
    return " ".join(words)[:_LONGEST_TITLE]


def _blank_lines_matter(lines: Sequence[_Line]) -> bool:
    """Whether paragraphs are set apart by blank lines, not only by line ends."""
    return sum(line.follows_blank for line in lines) * 20 >= len(lines)


def _wrapped(text: str, lines: Sequence[_Line]) -> bool:
    """Whether lines were cut at a width: most are long then, few end a sentence."""
    going_on = [
        text[line.start : line.end]
        for line, after in pairwise(lines[:_LOOKED_AT])
        if not after.follows_blank
    ]
    if len(going_on) < 3:
        return False
    widths = sorted(_width(line) for line in going_on)
    usual = widths[len(widths) * 9 // 10]
    long = sum(width > usual * 0.7 for width in widths)
    ended = sum(line.endswith(_ENDS) for line in going_on)
    is_table = sum(line.startswith(("|", "- ", "* ")) for line in going_on)
    return (
        40 <= usual <= 120
        and long > len(widths) * 0.6
        and ended < len(widths) * 0.5
        and is_table < len(widths) * 0.5
    )


_ENDS = tuple("。！？；：.!?;:”’」』）")


def _width(line: str) -> int:
    if line.isascii():
        return len(line)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line[:500])
