"""The headings of a Markdown text, which is kept as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rag.extracted import Heading
from rag.outline import titled

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
# Code within a line may stand between as many backticks; code may be all of an item.
_FENCE = re.compile(r" {0,3}(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}(?=[^`]*$)|~{3,})")
_FENCE_END = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*$")
_NO_PARAGRAPH = re.compile(r"[ \t]*(?:[-*+>|#]|\d+[.)][ \t]|$)| {4}|\t")


def headings_of(text: str) -> Iterator[Heading]:
    """Headings with # and with underlines, outside of code and of front matter."""
    fence: re.Match[str] | None = None
    above: tuple[int, str] | None = None  # The paragraph's line so far, if it is one.
    start = _after_front_matter(text)
    for line in text[start:].splitlines(keepends=True):
        content = line.rstrip("\n")
        if fence:
            fence = None if _closes(fence, content) else fence
        elif fence := _FENCE.match(content):
            above = None
        elif atx := _ATX.match(content):
            yield from _heading(start, content, len(atx[1]), content[atx.end() :])
            above = None
        elif above and (underline := _UNDERLINE.match(content)):
            yield from _heading(*above[:1], above[1], "=-".index(underline[1][0]) + 1)
            above = None
        else:
            above = None if _NO_PARAGRAPH.match(content) else (start, content)
        start += len(line)


def _closes(fence: re.Match[str], line: str) -> bool:
    """Whether a line ends the code behind a fence, as far to the right as that."""
    end = _FENCE_END.match(line)
    return bool(
        end and end[1].startswith(fence[1]) and end.start(1) <= fence.start(1) + 3
    )


def _heading(
    start: int, line: str, level: int, title: str | None = None
) -> Iterator[Heading]:
    named = titled(line if title is None else title)
    if named:
        first = start + len(line) - len(line.lstrip())
        yield Heading(start=first, level=level, title=named)


def _after_front_matter(text: str) -> int:
    if not text.startswith("---\n"):
        return 0
    end = text.find("\n---\n", 3)
    return end + 5 if end >= 0 else 0
