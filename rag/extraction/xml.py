"""XML from strangers, read as a stream: no tree, no entities, no other files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from xml.parsers import expat

from llmbackend.errors import UnreadableDocument

Attributes = dict[str, str]
# Word nests a table in a table's cell; nobody does so a thousand times.
MAX_DEPTH = 2_000
SEPARATOR = " "


def read_xml(
    steps: Iterable[bytes],
    *,
    start: Callable[[str, Attributes], None],
    end: Callable[[str], None],
    text: Callable[[str], None] | None = None,
) -> None:
    """
    Call back for every element, its name given as `namespace name`.

    Raises UnreadableDocument for XML that is broken, or has a document type: there
    entities are defined, and other files named.
    """
    depth = 0

    def started(name: str, attributes: Attributes) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise UnreadableDocument
        start(name, attributes)

    def ended(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name)

    parser = expat.ParserCreate(namespace_separator=SEPARATOR)
    parser.buffer_text = True
    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    parser.StartDoctypeDeclHandler = _refuse
    if text is not None:
        parser.CharacterDataHandler = text
    try:
        for step in steps:
            parser.Parse(step, False)
        parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UnreadableDocument from error


def _refuse(*_declaration: object) -> None:
    raise UnreadableDocument
