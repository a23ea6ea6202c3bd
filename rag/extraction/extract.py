"""A file of any type -> its text. Runs in a child process: the file is a stranger's."""

from __future__ import annotations

import re

from llmbackend.errors import (
    EmptyDocument,
    EncryptedDocument,
    UnreadableDocument,
    UnsupportedType,
)
from rag.encodings import decode
from rag.extracted import Extracted
from rag.extraction.markdown import headings_of
from rag.extraction.text import TOO_MUCH_TEXT, normal
from rag.parsed import MAX_TEXT_BYTES

WRONG_TYPE = "The file is not what its extension says."
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_ZIP = b"PK\x03\x04"
# A record of 22 bytes, of which the last two tell how long a comment follows.
_ZIP_END = b"PK\x05\x06"
_PDF = b"%PDF-"
# What a reader of PDF files looks through for their beginning.
_PDF_MAY_START = 1024
_NO_TEXT = re.compile(
    rb"%PDF-|%!PS|\{\\rtf|PK\x03\x04|\xd0\xcf\x11\xe0|\x89PNG|GIF8|\x1f\x8b"
)


def extract(data: bytes, *, type: str, encoding: str = "") -> Extracted:  # noqa: A002
    """
    The text of a file of a type `type_of` names, and where its headings and pages are.

    Raises EmptyDocument, UnreadableDocument, EncryptedDocument, NoText,
    UnsupportedType if the content is of another type, or UnknownEncoding.
    """
    if not data.strip():
        raise EmptyDocument
    if type == "pdf":
        return _pdf(data)
    if type == "docx":
        return _docx(data)
    return _text(data, type, encoding)


def _pdf(data: bytes) -> Extracted:
    if _PDF not in data[:_PDF_MAY_START] or _ends_as_zip(data):
        raise UnsupportedType(WRONG_TYPE)
    from rag.extraction.pdf import extract_pdf

    return extract_pdf(data)


def _docx(data: bytes) -> Extracted:
    if data.startswith(_OLE):
        if _ENCRYPTED_PACKAGE in data:
            raise EncryptedDocument
        raise UnsupportedType(
            "The file is in the old format of Word; save it as .docx."
        )
    if _PDF in data[:_PDF_MAY_START]:
        raise UnsupportedType(WRONG_TYPE)
    if not data.startswith(_ZIP):
        raise UnreadableDocument("The file is not a Word document, or it is damaged.")
    from rag.extraction.docx import extract_docx

    return extract_docx(data)


def _text(data: bytes, type: str, encoding: str) -> Extracted:  # noqa: A002
    if _NO_TEXT.match(data) or _ends_as_zip(data):
        raise UnsupportedType(WRONG_TYPE)
    decoded = decode(data, encoding=encoding)
    text = normal(decoded.text)
    if not text.strip():
        raise EmptyDocument
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise UnreadableDocument(TOO_MUCH_TEXT)
    headings = tuple(headings_of(text)) if type == "md" else ()
    return Extracted(text=text, encoding=decoded.encoding, headings=headings)


def _ends_as_zip(data: bytes) -> bool:
    """
    Whether a file is a zip archive from its end, whatever it is from its start.

    Not one that only holds an archive, as a PDF does that has an office file attached.
    """
    end = data.rfind(_ZIP_END)
    comment = int.from_bytes(data[end + 20 : end + 22], "little")
    return end >= 0 and end + 22 + comment == len(data)
