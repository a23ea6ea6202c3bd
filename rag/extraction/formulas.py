"""
Formulas of Office, written on one line: f(x)=∑_(i=1)^n √(x_i+1)/2.

The elements are those of ECMA-376 part 1, 22.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rag.extraction.xml import SEPARATOR, Attributes

_NAMESPACES = (
    "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "http://purl.oclc.org/ooxml/officeDocument/math",
)
# What stands before an operand.
_OPERATORS = {"num": "", "den": "/", "sup": "^", "sub": "_", "lim": "_"}
# What stands before the first, between two and after the last of a structure's members.
_AROUND = {
    "d": ("(", "|", ")"),
    "m": ("", "; ", ""),
    "mr": ("", " ", ""),
    "eqArr": ("", " ", ""),
    "func": ("", " ", ""),
    "nary": (" ", " ", ""),
}
_MEMBERS = {"e", "mr", "fName"}
_SIGNS = {"nary": "∫", "rad": "√"}
_WITHIN = {"f", "deg", "dPr", "naryPr", *_OPERATORS, *_AROUND, *_MEMBERS, *_SIGNS}
_CHARACTERS = {"chr", "begChr", "sepChr", "endChr"}
# As the parser gives them -> with "m:" for the namespace.
FORMULA_NAMES = {
    f"{space}{SEPARATOR}{name}": f"m:{name}"
    for space in _NAMESPACES
    for name in {*_WITHIN, *_CHARACTERS}
} | {f"{space}{SEPARATOR}t": "t" for space in _NAMESPACES}


@dataclass(slots=True)
class _Open:
    """An element that is being read, and the place of its first part."""

    kind: str
    place: int
    before: str = ""
    between: str = ""
    after: str = ""
    members: int = 0


@dataclass(slots=True)
class Formulas:
    """Puts the signs of a paragraph's formulas among its parts."""

    _open: list[_Open] = field(default_factory=list)

    def start(self, name: str, attributes: Attributes, parts: list[str]) -> None:
        """An element of FORMULA_NAMES begins; what it holds is added to `parts`."""
        kind = name.removeprefix("m:")
        if kind in _CHARACTERS:
            self._character(kind, attributes, parts)
            return
        if kind in _MEMBERS and self._open:
            self._member(self._open[-1], parts)
        if kind in _SIGNS:
            parts.append(_SIGNS[kind])
        elif kind == "f" and parts and parts[-1].isascii() and parts[-1][-1:].isalnum():
            parts.append(" ")  # 2½ is no 21/2.
        is_root = kind == "e" and bool(self._open) and self._open[-1].kind == "rad"
        opened = _Open("root" if is_root else kind, len(parts), *_AROUND.get(kind, ()))
        self._open.append(opened)
        if opened.kind in _OPERATORS or opened.kind in {"root", "deg"}:
            parts.append("")  # For its operator or bracket.

    def end(self, name: str, parts: list[str]) -> None:
        """The same element ends."""
        if name.removeprefix("m:") in _CHARACTERS or not self._open:
            return
        closed = self._open.pop()
        if closed.members:
            parts.append(closed.after)
        elif closed.kind == "deg":
            _enclose(parts, closed.place, "[", "]")
        elif closed.kind in _OPERATORS or closed.kind == "root":
            _operand(parts, closed.place, _OPERATORS.get(closed.kind, ""))

    def _member(self, structure: _Open, parts: list[str]) -> None:
        if structure.kind in _AROUND:
            parts.append(structure.between if structure.members else structure.before)
            structure.members += 1

    def _character(self, kind: str, attributes: Attributes, parts: list[str]) -> None:
        """A sign other than the usual; an empty one is none."""
        values = [attributes.get(f"{space}{SEPARATOR}val") for space in _NAMESPACES]
        written = values[0] or values[1] or ""
        inside = self._open[-1].kind if self._open else ""
        if kind == "chr" and inside == "naryPr":
            parts[-1] = written
        elif kind != "chr" and inside == "dPr" and len(self._open) > 1:
            brackets = self._open[-2]
            if kind == "begChr":
                brackets.before = written
            elif kind == "sepChr":
                brackets.between = written
            else:
                brackets.after = written


def _operand(parts: list[str], place: int, operator: str) -> None:
    """Put an operator before what was read since `place`, and brackets if need be."""
    if len(parts) == place + 2 and parts[-1].isalnum():
        parts[place] = operator
    else:
        _enclose(parts, place, f"{operator}(", ")")


def _enclose(parts: list[str], place: int, before: str, after: str) -> None:
    if len(parts) > place + 1:
        parts[place] = before
        parts.append(after)
