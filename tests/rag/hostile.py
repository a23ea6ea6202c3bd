"""Files made to hurt whoever reads them, each to be refused with a 400."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

from tests.rag.documents import body, pages_pdf, paragraph, pdf, raw_docx, stream

MIB = 1 << 20


def lying(data: bytes, size: int) -> bytes:
    """An archive whose directory says that an entry of `size` bytes has a thousand."""
    return data.replace(struct.pack("<I", size), struct.pack("<I", 1000))


def loop_of_pages() -> bytes:
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 2 >>",
            b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Parent 2 0 R /Count 2 >>",
        ]
    )


def form_in_itself() -> bytes:
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
            stream(b"/X Do " * 99, b"/Resources << /XObject << /X 4 0 R >> >>"),
        ]
    )


def chain_of_lengths() -> bytes:
    """A stream whose length is an object whose length is an object, round and round."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
        b"<< /Length 4 0 R /Filter /FlateDecode >>\nstream\nx\nendstream",
    ]
    return pdf(objects)


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "bomb": ("a.docx", lambda: raw_docx(body(paragraph("x")), bomb=bytes(110 * MIB))),
    "bomb that lies": (
        "a.docx",
        lambda: lying(raw_docx(body(""), bomb=bytes(60 * MIB)), 60 * MIB),
    ),
    "bomb of text": ("a.docx", lambda: raw_docx(body(paragraph("x" * 45 * MIB)))),
    "bomb named .txt": ("a.txt", lambda: raw_docx(body(""), bomb=bytes(60 * MIB))),
    "bomb named .doc": ("a.doc", lambda: raw_docx(body(""), bomb=bytes(60 * MIB))),
    "bomb named .pdf": ("a.pdf", lambda: raw_docx(body(""), bomb=bytes(60 * MIB))),
    "filter": ("a.pdf", lambda: pages_pdf(bytes(90 * MIB))),
    "pages in a loop": ("a.pdf", loop_of_pages),
    "form in itself": ("a.pdf", form_in_itself),
    "length of itself": ("a.pdf", chain_of_lengths),
    "huge table of objects": (
        "a.pdf",
        lambda: pages_pdf(b"").replace(b"xref\n0 6", b"xref\n0 999999999"),
    ),
    "nested": ("a.docx", lambda: raw_docx(body("<w:tbl>" * 100_000))),
    "tabs": (
        "a.docx",
        lambda: raw_docx(body("<w:p>" + "<w:tab/>" * 5 * MIB + "</w:p>")),
    ),
    "too much text": ("a.txt", lambda: b"word " * (5 * MIB)),
    "laughs": (
        "a.docx",
        lambda: raw_docx(body(paragraph("&h;"), before=billion_laughs())),
    ),
}


def billion_laughs() -> str:
    letters = "abcdefgh"
    entities = "".join(
        f'<!ENTITY {one} "{f"&{other};" * 10}">' for other, one in pairwise(letters)
    )
    return f'<!DOCTYPE x [<!ENTITY a "ha">{entities}]>'


def calling(url: str) -> dict[str, bytes]:
    """Documents that name something elsewhere in each of the ways there are."""
    relations = (
        "<Relationships>"
        f'<Relationship Type="x/attachedTemplate" TargetMode="External" '
        f'Target="{url}/t"/>'
        f'<Relationship Type="x/header" TargetMode="External" Target="{url}/h"/>'
        f'<Relationship Type="x/styles" Target="{url}/s"/>'
        '<Relationship Type="x/footer" Target="file:///etc/passwd"/>'
        '<Relationship Type="x/footnotes" Target="../../../../etc/passwd"/>'
        "</Relationships>"
    )
    link = f'<w:p><w:hyperlink xmlns:xlink="x" xlink:href="{url}/x"/></w:p>'
    field = (
        f'<w:p><w:r><w:instrText>INCLUDETEXT "{url}/i"</w:instrText>'
        "<w:t>swallow</w:t></w:r></w:p>"
    )
    include = f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{url}/x"/>'
    parts = {"_rels/document.xml.rels": relations}
    return {
        "relations": raw_docx(body(paragraph("swallow")), **parts),
        "links": raw_docx(body(link + field + include)),
        "entity": raw_docx(
            body(
                paragraph("&e;"), before=f'<!DOCTYPE x [<!ENTITY e SYSTEM "{url}/e">]>'
            )
        ),
        "file": raw_docx(
            body(
                paragraph("&e;"),
                before='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
            )
        ),
        "definition": raw_docx(
            body(paragraph("x"), before=f'<!DOCTYPE x SYSTEM "{url}/x.dtd">')
        ),
    }
