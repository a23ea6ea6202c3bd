"""Documents for the tests: honest ones and hostile ones, made by hand."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable

import docx

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
CONTENT_TYPES = "[Content_Types].xml"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
ROOT_RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Id="r1" Type="{RELATIONS}/officeDocument"'
    ' Target="word/document.xml"/></Relationships>'
)


def saved(document: object) -> bytes:
    """The bytes of a document of python-docx."""
    file = io.BytesIO()
    document.save(file)  # type: ignore[attr-defined]
    return file.getvalue()


def simple_docx(*paragraphs: str) -> bytes:
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    return saved(document)


def body(content: str, *, before: str = "") -> str:
    return (
        f'{before}<w:document xmlns:w="{WORD}"><w:body>{content}</w:body></w:document>'
    )


def raw_docx(document: str | bytes, **parts: str | bytes) -> bytes:
    """A package around the XML of its main part; further `parts` by name in word/."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CONTENT_TYPES, "<Types/>")
        archive.writestr("_rels/.rels", ROOT_RELATIONS)
        archive.writestr("word/document.xml", document)
        for name, content in parts.items():
            archive.writestr(f"word/{name}", content)
    return file.getvalue()


def paragraph(text: str, properties: str = "") -> str:
    start = f"<w:p><w:pPr>{properties}</w:pPr>"
    return f"{start}<w:r><w:t>{text}</w:t></w:r></w:p>"


def pdf(objects: Iterable[bytes], *, trailer: bytes = b"/Root 1 0 R") -> bytes:
    """A PDF file of numbered objects, the first its catalog."""
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer\n<< /Size %d %s >>\n" % (len(places) + 1, trailer)
    return data + b"startxref\n%d\n%%%%EOF\n" % start


def stream(content: bytes, dictionary: bytes = b"") -> bytes:
    packed = zlib.compress(content)
    head = b"<< /Length %d /Filter /FlateDecode %s >>" % (len(packed), dictionary)
    return head + b"\nstream\n" + packed + b"\nendstream"


def pages_pdf(*contents: bytes) -> bytes:
    """A PDF file whose pages have these content streams and one Latin font, F1."""
    count = len(contents)
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(contents):
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * number),
            stream(content),
        ]
    return pdf(objects)


def lines(*texts: str) -> bytes:
    """The content stream of a page with these lines."""
    shown = b"".join(b"(%s) Tj T* " % text.encode("latin-1") for text in texts)
    return b"BT /F1 12 Tf 14 TL 72 720 Td " + shown + b"ET"
