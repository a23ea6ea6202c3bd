"""
Bring the admin's Chinese catalogue in step with the sources, and compile it.

    .venv/bin/python scripts/messages.py

What is new is added without a translation, to be written into the .po file; then run it
once more. The compiled .mo is committed too, so that a clone needs no gettext.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
PO = ROOT / "locale/zh_Hans/LC_MESSAGES/django.po"
MO = PO.with_suffix(".mo")
PACKAGES = ("accounts", "conversations", "rag", "chat", "llmbackend")
KEYWORDS = {"_": None, "gettext": None, "gettext_lazy": None, "ngettext": (1, 2)}
# A date that never changes makes no difference between two runs.
MADE = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> int:
    catalogue = in_step()
    PO.write_bytes(as_po(catalogue))
    MO.write_bytes(as_mo(catalogue))
    missing = untranslated(catalogue)
    for message in missing:
        print(f"not translated: {message}")
    return 1 if missing else 0


def in_step() -> Catalog:
    """The translations there are, of exactly what the sources say."""
    template = Catalog(creation_date=MADE)
    for message in sorted(messages(), key=str):
        template.add(message)
    with PO.open("rb") as file:
        catalogue = read_po(file, locale="zh_Hans")
    catalogue.update(template, no_fuzzy_matching=True)
    catalogue.revision_date = MADE
    return catalogue


def messages() -> Iterator[str | tuple[str, ...]]:
    """What the project has to say in a visitor's language."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            source = path.read_text("utf-8") if path.is_file() and is_ours(path) else ""
            if path.suffix == ".html":
                source = templatize(source)
            found = extract("python", io.BytesIO(source.encode()), KEYWORDS)
            yield from (message for _, message, _, _ in found)
    yield from error_sentences()


def is_ours(path: Path) -> bool:
    return path.suffix in {".py", ".html"} and "migrations" not in path.parts


def error_sentences() -> Iterator[str]:
    """Of what becomes the reason of a failure."""
    sys.path.insert(0, str(ROOT))
    from llmbackend.errors import LLMBackendError

    kinds = [LLMBackendError]
    for kind in kinds:
        yield str(kind.__doc__)
        kinds += kind.__subclasses__()


def untranslated(catalogue: Catalog) -> list[str]:
    return [str(m.id) for m in catalogue if m.id and not all(as_tuple(m.string))]


def as_tuple(text: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    if isinstance(text, tuple | list):
        return tuple(text)
    return (text or "",)


def as_po(catalogue: Catalog) -> bytes:
    file = io.BytesIO()
    write_po(file, catalogue, sort_output=True, ignore_obsolete=True, no_location=True)
    return file.getvalue()


def as_mo(catalogue: Catalog) -> bytes:
    file = io.BytesIO()
    write_mo(file, catalogue)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
