"""Text out of a .docx file, in the order it is read on paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmbackend.errors import EmptyDocument, NoText, UnsupportedType
from rag.extracted import Extracted, Heading
from rag.extraction.formulas import FORMULA_NAMES, Formulas
from rag.extraction.package import (
    NOT_WORD,
    Package,
    Style,
    local_names,
    number,
    opened,
    outline_level,
    value,
)
from rag.extraction.symbols import symbol
from rag.extraction.text import Text, normal
from rag.extraction.xml import SEPARATOR, Attributes
from rag.outline import titled

_CELL = " | "
_COMPATIBILITY = "http://schemas.openxmlformats.org/markup-compatibility/2006"
_PICTURES = ("word/media/", "word/embeddings/")


def extract_docx(data: bytes) -> Extracted:
    """
    Headers, then headings, paragraphs, lists and tables with their notes, then footers.

    A table's row is a line. What was deleted under change tracking is left out, and so
    is a table of contents. Raises UnreadableDocument, EncryptedDocument,
    UnsupportedType, EmptyDocument or NoText.
    """
    package = opened(data)
    notes = _Notes()
    for part in package.notes:
        _Reader(package, notes.add, {}).read(part)
    document = _Document()
    for part in package.headers:
        _Reader(package, document.add_once, {}).read(part)
    _Reader(package, document.add, notes.found).read(package.document)
    for part in package.footers:
        _Reader(package, document.add_once, {}).read(part)
    text = document.text.whole()
    if not text.strip():
        pictures = any(name.startswith(_PICTURES) for name in package.archive.names())
        raise NoText if pictures else EmptyDocument
    return Extracted(text=text, headings=tuple(document.headings))


@dataclass(slots=True)
class _Paragraph:
    """
    A paragraph, or a table's row, as it is read.

    `fields` are those begun in it, whether each is at its instruction.
    """

    parts: list[str] = field(default_factory=list)
    style: Style = field(default_factory=Style)
    level: int | None = None
    number_id: str = ""
    number_level: int | None = None
    notes: list[str] = field(default_factory=list)
    is_row: bool = False
    is_deleted: bool = False
    note: str = ""
    fields: list[bool] = field(default_factory=list)
    formulas: Formulas = field(default_factory=Formulas)

    def text(self) -> str:
        return normal("".join(self.parts)).strip()

    def is_item(self) -> bool:
        """Of a list or a table: it is set apart from the next by a line's end only."""
        return self.is_row or bool(self.number_id)


class _Document:
    """Paragraphs as one text."""

    def __init__(self) -> None:
        self.text = Text()
        self.headings: list[Heading] = []
        self._last_is_item = False
        self._seen: set[str] = set()

    def add(self, paragraph: _Paragraph, text: str) -> None:
        if not text:
            return
        if self.text.length:
            together = self._last_is_item and paragraph.is_item()
            self.text.add("\n" if together else "\n\n")
        self._last_is_item = paragraph.is_item()
        start = self.text.add(text)
        if paragraph.level is not None:
            heading = Heading(start=start, level=paragraph.level, title=titled(text))
            self.headings.append(heading)

    def add_once(self, paragraph: _Paragraph, text: str) -> None:
        """A header is as a rule that of other pages, too."""
        if text not in self._seen:
            self._seen.add(text)
            self.add(paragraph, text)


class _Notes:
    """Footnotes and endnotes by their id."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, paragraph: _Paragraph, text: str) -> None:
        if text:
            self.found.setdefault(paragraph.note, []).append(text)


class _Reader:
    """Turns the elements of one part into paragraphs, and hands them on."""

    def __init__(
        self,
        package: Package,
        add: Callable[[_Paragraph, str], None],
        notes: dict[str, list[str]],
    ) -> None:
        self._package = package
        self._add = add
        self._notes = notes
        self._note = ""
        self._open: list[_Paragraph] = []
        self._rows: list[list[list[tuple[_Paragraph, str]]]] = []
        self._skipped = 0
        self._in_text = False
        self._is_word = False

    def read(self, part: str) -> None:
        self._package.read(part, start=self._start, end=self._end, text=self._text)
        if not self._is_word:
            raise UnsupportedType(NOT_WORD)

    def _start(self, name: str, attributes: Attributes) -> None:
        kind = _NAMES.get(name, "")
        self._is_word = self._is_word or kind in _ROOTS
        if kind in _DELETED and self._open:
            self._open[-1].is_deleted = True
        if self._skipped or kind in _SKIPPED:
            self._skipped += 1
        elif kind == "t":
            self._in_text = True
        elif kind in _SIGNS:
            self._write(_SIGNS[kind])
        elif kind in _PROPERTIES and self._open:
            self._property(kind, attributes)
        elif kind in _FORMULAS and self._open:
            self._open[-1].formulas.start(kind, attributes, self._open[-1].parts)
        elif kind:
            self._structure(kind, attributes)

    def _structure(self, kind: str, attributes: Attributes) -> None:
        if kind == "p":
            self._open.append(_Paragraph(note=self._note))
        elif kind == "tr":
            self._rows.append([])
        elif kind == "tc" and self._rows:
            self._rows[-1].append([])
        elif kind in {"footnote", "endnote"}:
            # Word's own separators are notes, too, and have a type.
            is_text = value(attributes, "type") in {"", "normal"}
            self._note = f"{kind} {value(attributes, 'id')}" if is_text else ""

    def _property(self, kind: str, attributes: Attributes) -> None:
        paragraph = self._open[-1]
        match kind:
            case "pStyle":
                known = self._package.styles.get(value(attributes))
                paragraph.style = known or paragraph.style
            case "outlineLvl":
                paragraph.level = outline_level(value(attributes))
            case "numId":
                paragraph.number_id = value(attributes)
            case "ilvl":
                paragraph.number_level = number(value(attributes))
            case "footnoteReference" | "endnoteReference":
                note = f"{kind.removesuffix('Reference')} {value(attributes, 'id')}"
                paragraph.notes.append(note)
            case "sym":
                code = value(attributes, "char")
                self._write(symbol(value(attributes, "font"), code))
            case "fldChar":
                _field(paragraph.fields, value(attributes, "fldCharType"))

    def _text(self, text: str) -> None:
        if self._in_text and not self._skipped:
            self._write(text)

    def _write(self, text: str) -> None:
        # What a field in another's instruction results in is not shown.
        if self._open and not any(self._open[-1].fields[:-1]):
            self._open[-1].parts.append(text)

    def _end(self, name: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        match _NAMES.get(name, ""):
            case "t":
                self._in_text = False
            case "p" if self._open:
                self._paragraph(self._open.pop())
            case "tr" if self._rows:
                self._row(self._rows.pop())
            case kind if kind in _FORMULAS and self._open:
                self._open[-1].formulas.end(kind, self._open[-1].parts)

    def _paragraph(self, paragraph: _Paragraph) -> None:
        style = paragraph.style
        text = paragraph.text()
        if style.name.startswith("toc ") or (paragraph.is_deleted and not text):
            return
        if paragraph.level is None:
            paragraph.level = style.level
        if not paragraph.number_id:
            paragraph.number_id = style.number_id
        if paragraph.number_id == "0":
            paragraph.number_id = ""
        if paragraph.number_id:
            level = paragraph.number_level
            label = self._package.numbering.next_label(
                paragraph.number_id, style.number_level if level is None else level
            )
            text = f"{label} {text}" if label and text else text
        if not text:
            return  # Word numbers what is empty, too.
        self._hand_on(paragraph, text)
        for note in paragraph.notes:
            for note_text in self._notes.get(note, []):
                self._hand_on(_Paragraph(), note_text)

    def _hand_on(self, paragraph: _Paragraph, text: str) -> None:
        if self._rows and self._rows[-1]:
            self._rows[-1][-1].append((paragraph, text))
        else:
            self._add(paragraph, text)

    def _row(self, cells: list[list[tuple[_Paragraph, str]]]) -> None:
        """A table of one column is a frame around paragraphs."""
        if len(cells) == 1:
            for paragraph, text in cells[0]:
                self._hand_on(paragraph, text)
            return
        lines = [" ".join(text for _, text in cell) for cell in cells]
        if any(lines):
            line = _CELL.join(lines).replace("\n", " ").strip()
            self._hand_on(_Paragraph(is_row=True), line)


def _field(fields: list[bool], kind: str) -> None:
    if kind == "begin":
        fields.append(True)
    elif kind == "separate" and fields:
        fields[-1] = False
    elif kind == "end" and fields:
        fields.pop()


_ROOTS = {"document", "footnotes", "endnotes", "hdr", "ftr"}
_SIGNS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_DELETED = {"del", "moveFrom"}
# How a paragraph was before its last change is told in the same words as how it is.
_SKIPPED = {*_DELETED, "pPrChange", "rt", "Fallback", "tabs"}
_PROPERTIES = {
    "pStyle",
    "outlineLvl",
    "numId",
    "ilvl",
    "footnoteReference",
    "endnoteReference",
    "sym",
    "fldChar",
}
_FORMULAS = set(FORMULA_NAMES.values()) - {"t"}
_NAMES = local_names(
    "t", "p", "tr", "tc", "footnote", "endnote",
    *_ROOTS, *_SIGNS, *_SKIPPED, *_PROPERTIES,
) | FORMULA_NAMES | {
    f"{_COMPATIBILITY}{SEPARATOR}Fallback": "Fallback",
}  # fmt: skip
