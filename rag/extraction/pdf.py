"""Text out of a .pdf file, page by page."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

from pypdf import PasswordType, PdfReader

from llmbackend.errors import EncryptedDocument, NoText
from rag.extracted import Extracted
from rag.extraction.text import Text, normal

_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]")
_ENDS = tuple("。！？；：.!?;:”’」』）)…")
_LIST_ITEM = re.compile(
    r"[•·●▪◦\-–*]\s|[(（]?[0-9一二三四五六七八九十]{1,3}[.)、）](?!\d)|第.{1,9}[条章节编]"
)
# Other signs than the minus of a keyboard that a line is cut with.
_HYPHENS = re.compile("[\u00ad\u2010](?=[ \\t]*(?:\\r?\\n|$))")


def extract_pdf(data: bytes) -> Extracted:
    """
    The pages' text, lines that a margin cut joined again, and where each page starts.

    Raises EncryptedDocument or NoText; for what pypdf cannot read, whatever it raises.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
        raise EncryptedDocument
    text = Text()
    pages = []
    for page in reader.pages:
        content = normal(_HYPHENS.sub("-", page.extract_text()))
        paragraphs = "\n".join(_joined(content.split("\n")))
        pages.append(text.add(paragraphs + "\n" if paragraphs else ""))
    whole = text.whole()
    if not whole.strip():
        raise NoText
    return Extracted(text=whole, pages=tuple(pages))


def _joined(lines: list[str]) -> Iterator[str]:
    """Paragraphs: a line goes on in the next if it is full and ends no sentence."""
    lines = [line.strip() for line in lines]
    lines = [line for line in lines if line]
    widths = sorted(_width(line) for line in lines)
    full = widths[len(widths) * 9 // 10] * 0.8 if widths else 0
    paragraph: list[str] = []
    for line in lines:
        if paragraph and _LIST_ITEM.match(line):
            yield "".join(paragraph)
            paragraph = []
        if paragraph:
            paragraph[-1], between = _seam(paragraph[-1], line)
            paragraph.append(between)
        paragraph.append(line)
        if _width(line) < full or line.endswith(_ENDS):
            yield "".join(paragraph)
            paragraph = []
    if paragraph:
        yield "".join(paragraph)


def _seam(line: str, after: str) -> tuple[str, str]:
    """A line without the hyphen it was cut at, and what stands before the next."""
    if line.endswith("-") and line[-2:-1].isalpha() and after[0].islower():
        return line[:-1], ""
    is_cjk = _CJK.match(line[-1]) or _CJK.match(after[0])
    return line, "" if is_cjk else " "


def _width(line: str) -> int:
    return len(line) if line.isascii() else len(line) + len(_CJK.findall(line))
