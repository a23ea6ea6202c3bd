"""What extraction hands to chunking: a text, and what is known of its places."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A line of the text that names what follows; level 0 is the document's title."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """
    A document as text; offsets are code points of `text`.

    `encoding` is that of a text file, else "". `pages[n]` is where page n + 1 starts;
    empty for a document without pages.
    """

    text: str
    encoding: str = ""
    headings: tuple[Heading, ...] = ()
    pages: tuple[int, ...] = ()
