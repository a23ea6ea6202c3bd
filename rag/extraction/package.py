"""The parts of a .docx file, and how they refer to each other."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmbackend.errors import UnreadableDocument, UnsupportedType
from rag.extraction.archive import Archive
from rag.extraction.numbering import Level, Numbering
from rag.extraction.xml import SEPARATOR, Attributes, read_xml

CONTENT_TYPES = "[Content_Types].xml"
NAMESPACES = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",
)
NOT_WORD = "The file is an archive, but not a Word document."
_LONGEST_CHAIN = 20
_OFF = {"0", "false", "off"}


def local_names(*names: str) -> dict[str, str]:
    """Names of Word's elements, as the parser gives them, -> without a namespace."""
    return {f"{space}{SEPARATOR}{name}": name for space in NAMESPACES for name in names}


def value(attributes: Attributes, name: str = "val") -> str:
    """An attribute in Word's namespace; "" if it is not there."""
    for space in NAMESPACES:
        found = attributes.get(f"{space}{SEPARATOR}{name}")
        if found is not None:
            return found
    return ""


def number(text: str, default: int = 0) -> int:
    """A short whole number; `default` for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else default


@dataclass(slots=True)
class Style:
    """What a paragraph style says of its paragraphs; `level` 0 is a title's."""

    name: str = ""
    based_on: str = ""
    level: int | None = None
    number_id: str = ""
    number_level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The names of the parts that hold text, and what is said of their paragraphs."""

    archive: Archive
    document: str
    headers: list[str]
    footers: list[str]
    notes: list[str]
    styles: dict[str, Style]
    numbering: Numbering

    def read(
        self,
        part: str,
        *,
        start: Callable[[str, Attributes], None],
        end: Callable[[str], None],
        text: Callable[[str], None],
    ) -> None:
        read_xml(self.archive.steps(part), start=start, end=end, text=text)


def opened(data: bytes) -> Package:
    """Raises UnreadableDocument, EncryptedDocument; UnsupportedType for another zip."""
    archive = Archive(data)
    if CONTENT_TYPES not in archive:
        raise UnsupportedType(NOT_WORD)
    document = next(iter(_related(archive, "", "officeDocument")), "")
    if document not in archive:
        raise UnreadableDocument
    styles = _Styles()
    numbering = _Numbering()
    for part in _related(archive, document, "styles"):
        read_xml(archive.steps(part), start=styles.start, end=styles.end)
    for part in _related(archive, document, "numbering"):
        read_xml(archive.steps(part), start=numbering.start, end=lambda _name: None)
    return Package(
        archive=archive,
        document=document,
        headers=_related(archive, document, "header"),
        footers=_related(archive, document, "footer"),
        notes=[
            *_related(archive, document, "footnotes"),
            *_related(archive, document, "endnotes"),
        ],
        styles={
            name: _inherited(style, styles.found) for name, style in styles.items()
        },
        numbering=numbering.numbering(),
    )


def _related(archive: Archive, part: str, kind: str) -> list[str]:
    """The parts of one kind that `part`, or the package itself, refers to."""
    folder, name = posixpath.split(part)
    relations = posixpath.join(folder, "_rels", f"{name}.rels")
    found: list[str] = []

    def start(_name: str, attributes: Attributes) -> None:
        is_inside = attributes.get("TargetMode") != "External"
        if is_inside and attributes.get("Type", "").rpartition("/")[2] == kind:
            target = posixpath.join("/", folder, attributes.get("Target", ""))
            found.append(posixpath.normpath(target).lstrip("/"))

    if relations in archive:
        read_xml(archive.steps(relations), start=start, end=lambda _name: None)
    return [each for each in dict.fromkeys(found) if each in archive]


def _inherited(style: Style, styles: dict[str, Style]) -> Style:
    """A style with what it does not say itself taken from those it is based on."""
    result = Style(style.name, "", style.level, style.number_id, style.number_level)
    for _ in range(_LONGEST_CHAIN):
        base = styles.get(style.based_on)
        if base is None:
            break
        if result.level is None:
            result.level = base.level
        if not result.number_id:
            result.number_id, result.number_level = base.number_id, base.number_level
        style = base
    return result


class _Styles:
    """Reads styles.xml."""

    def __init__(self) -> None:
        self.found: dict[str, Style] = {}
        self._style = Style()

    def items(self) -> list[tuple[str, Style]]:
        return list(self.found.items())

    def start(self, name: str, attributes: Attributes) -> None:
        style = self._style
        match _STYLE_NAMES.get(name):
            case "style":
                self._style = self.found[value(attributes, "styleId")] = Style()
            case "name":
                style.name = value(attributes).casefold()
                style.level = _heading_level(style.name) or style.level
                if style.name == "title":
                    style.level = 0
            case "basedOn":
                style.based_on = value(attributes)
            case "outlineLvl":
                style.level = outline_level(value(attributes))
            case "numId":
                style.number_id = value(attributes)
            case "ilvl":
                style.number_level = number(value(attributes))

    def end(self, name: str) -> None:
        if _STYLE_NAMES.get(name) == "style":
            self._style = Style()


_STYLE_NAMES = local_names("style", "name", "basedOn", "outlineLvl", "numId", "ilvl")


def _heading_level(name: str) -> int | None:
    kind, _, level = name.partition(" ")
    return number(level) or None if kind == "heading" else None


def outline_level(text: str) -> int | None:
    """Word counts headings from 0, and 9 is body text."""
    level = number(text, 9)
    return level + 1 if level < 9 else None


class _Numbering:
    """Reads numbering.xml."""

    def __init__(self) -> None:
        self._abstract: dict[str, dict[int, Level]] = {}
        # What a style for lists is defined by, and what is as such a style says.
        self._styled: dict[str, str] = {}
        self._as_styled: dict[str, str] = {}
        self._abstract_id = ""
        self._used: dict[str, str] = {}
        self._starts: dict[str, dict[int, int]] = {}
        self._own: dict[str, dict[int, Level]] = {}
        self._levels: dict[int, Level] = {}
        self._level = Level()
        self._number_id = ""
        self._number_level = 0

    def start(self, name: str, attributes: Attributes) -> None:
        match _NUMBERING_NAMES.get(name):
            case "abstractNum":
                self._levels = {}
                self._abstract_id = value(attributes, "abstractNumId")
                self._abstract[self._abstract_id] = self._levels
            case "styleLink":
                self._styled[value(attributes)] = self._abstract_id
            case "numStyleLink":
                self._as_styled[self._abstract_id] = value(attributes)
            case "lvl":
                self._level = Level()
                self._levels[number(value(attributes, "ilvl"))] = self._level
            case "start":
                self._level.start = number(value(attributes), 1)
            case "numFmt":
                self._level.format = value(attributes)
            case "lvlText":
                self._level.text = value(attributes)[:100]
            case "lvlRestart":
                self._level.restarts = number(value(attributes))
            case "isLgl":
                self._level.legal = value(attributes) not in _OFF
            case "num":
                self._number_id = value(attributes, "numId")
                self._levels = self._own[self._number_id] = {}
            case "abstractNumId":
                self._used[self._number_id] = value(attributes)
            case "lvlOverride":
                self._number_level = number(value(attributes, "ilvl"))
            case "startOverride":
                starts = self._starts.setdefault(self._number_id, {})
                starts[self._number_level] = number(value(attributes), 1)

    def numbering(self) -> Numbering:
        used = {
            number_id: self._styled.get(self._as_styled.get(abstract, ""), abstract)
            for number_id, abstract in self._used.items()
        }
        found = Numbering(abstract=used)
        for number_id, abstract in used.items():
            levels = self._abstract.get(abstract, {}) | self._own.get(number_id, {})
            starts = self._starts.get(number_id, {})
            found.begins[number_id] = set(starts)
            found.levels[number_id] = {
                at: replace(level, start=starts.get(at, level.start))
                for at, level in levels.items()
            }
        return found


_NUMBERING_NAMES = local_names(
    "abstractNum",
    "styleLink",
    "numStyleLink",
    "lvl",
    "start",
    "numFmt",
    "lvlText",
    "lvlRestart",
    "isLgl",
    "num",
    "abstractNumId",
    "lvlOverride",
    "startOverride",
)
