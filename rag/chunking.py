"""Cut a document's text into chunks; pure, and linear in the text's length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rag.extracted import Extracted, Heading
from rag.outline import Block, blocks_of
from rag.sentences import Measured, Piece, Sizes, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """
    `text[start:end]` of the document, never blank, without blanks at its ends.

    `page` is that of its start, None in a document without pages; `heading_path` the
    titles it stands under, outermost first.
    """

    start: int
    end: int
    page: int | None = None
    heading_path: tuple[str, ...] = ()


def chunked(document: Extracted, *, sizes: Sizes) -> Iterator[Chunk]:
    """
    The document's chunks, in its order; together they hold all that is not blank.

    A chunk ends at a heading and around an article of a statute; then, as far as the
    size allows, at a paragraph, a line, a sentence. Short paragraphs share a chunk.
    """
    measured = Measured(document.text, sizes)
    for group in _groups(blocks_of(document)):
        for start, end in _Packer(measured, group).spans():
            page = bisect_right(document.pages, start) if document.pages else None
            yield Chunk(start=start, end=end, page=page, heading_path=group.path)


@dataclass(slots=True)
class _Group:
    """Blocks that may share chunks: a section's, or an article's."""

    path: tuple[str, ...] = ()
    blocks: list[Block] = field(default_factory=list)
    is_article: bool = False


def _groups(blocks: Iterable[Block]) -> Iterator[_Group]:
    """Headings go with the text that follows them."""
    path: list[Heading] = []
    headings: list[Block] = []
    group = _Group()
    for block in blocks:
        if group.blocks and (block.heading or block.is_article):
            yield group
            group = _Group()
        if block.heading:
            path = [each for each in path if each.level < block.heading.level]
            path.append(block.heading)
            headings.append(block)
            continue
        if not group.blocks:
            contents, headings = _without_contents(headings)
            if contents:
                yield _Group(blocks=contents)
            group = _Group(_titles(path), headings, block.is_article)
            headings = []
        group.blocks.append(block)
    if headings:
        group = _Group(_titles(path), headings)
    if group.blocks:
        yield group


def _titles(path: list[Heading]) -> tuple[str, ...]:
    return tuple(heading.title for heading in path)


def _without_contents(headings: list[Block]) -> tuple[list[Block], list[Block]]:
    """Of headings in a row, a table of contents, and those of the text that follows."""
    levels = [block.heading.level if block.heading else 0 for block in headings]
    own = max(len(levels) - 1, 0)
    while own > 0 and levels[own - 1] < levels[own]:
        own -= 1
    return headings[:own], headings[own:]


@dataclass(slots=True)
class _Open:
    """A chunk that may still grow; `body` is what its text but the headings costs."""

    start: int
    end: int
    cost: int = 0
    body: int = 0
    pieces: list[Piece] = field(default_factory=list)


class _Packer:
    """Fills chunks with the blocks of one group."""

    def __init__(self, measured: Measured, group: _Group) -> None:
        self._measured = measured
        self._group = group
        self._long = measured.limit // 4
        self._open: _Open | None = None

    def spans(self) -> Iterator[Span]:
        """Start and end of each chunk."""
        for block in self._group.blocks:
            cost = self._measured.cost(block.start, block.end)
            if self._open and self._better_closed(self._open, block, cost):
                yield self._closed()
            if self._cost_with(block) <= self._measured.limit:
                self._add(block, 0 if block.heading else cost)
            else:
                yield from self._shared_out(block, cost)
        if self._open:
            yield self._closed()

    def _better_closed(self, chunk: _Open, block: Block, cost: int) -> bool:
        """Whether `block` should begin a chunk of its own."""
        if not chunk.body:
            return False
        if self._cost_with(block) > self._measured.limit:
            return chunk.body >= self._long or cost <= self._measured.limit
        both_long = chunk.body >= self._long and cost >= self._long
        return both_long and not self._group.is_article

    def _shared_out(self, block: Block, cost: int) -> Iterator[Span]:
        """Cut a block into chunks of about one size; the last is left open."""
        measured = self._measured
        step = max(measured.limit - measured.repeated, 1)
        count = max(-(-(cost - measured.repeated) // step), 1)
        target = (cost + (count - 1) * measured.repeated) // count
        by_line = not block.is_wrapped
        for piece in measured.pieces(block.start, block.end, by_line=by_line):
            cost = measured.cost(piece.start, piece.end)
            chunk = self._open
            if chunk and self._is_full(chunk, piece, cost, target):
                yield self._closed()
                if not piece.is_line:
                    self._repeat(chunk.pieces, piece, cost)
            self._add(piece, cost).pieces.append(piece)

    def _is_full(self, chunk: _Open, piece: Piece, cost: int, target: int) -> bool:
        with_it = self._cost_with(piece)
        past_target = bool(chunk.pieces) and with_it - cost // 2 > target
        return with_it > self._measured.limit or past_target

    def _repeat(self, pieces: list[Piece], before: Piece, cost: int) -> None:
        """Begin with the end of the last chunk: whole sentences, or clauses of one."""
        measured = self._measured
        room = min(measured.repeated, measured.limit - cost)
        start = before.start
        for piece in reversed(pieces):
            if measured.cost(piece.start, before.start) > room:
                break
            start = piece.start
        if start == before.start and pieces:
            start = measured.last_clauses(pieces[-1].start, before.start, room)
        start = before.start - len(measured.text[start : before.start].lstrip())
        if start < before.start:
            self._open = _Open(start, start)

    def _cost_with(self, part: Block | Piece) -> int:
        if self._open is None:
            return self._measured.cost(part.start, part.end)
        return self._open.cost + self._measured.cost(self._open.end, part.end)

    def _add(self, part: Block | Piece, body: int) -> _Open:
        if self._open is None:
            self._open = _Open(part.start, part.start)
        self._open.cost = self._cost_with(part)
        self._open.end = part.end
        self._open.body += body
        return self._open

    def _closed(self) -> Span:
        if self._open is None:
            raise ValueError("there is no chunk to close")
        span = self._open.start, self._open.end
        self._open = None
        return span
