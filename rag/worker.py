"""
The process that parses one document: `python -m rag.worker`, started by `rag.parsing`.

It reads one order from standard input, writes the result into the file the order names
and one report to standard output, and ends. It knows no database and no secrets, and
never runs on unlimited time or memory.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llmbackend.errors import Invalid, Unavailable, UnreadableDocument
from rag.chunking import chunked
from rag.confinement import confine
from rag.extracted import Extracted
from rag.extraction.extract import extract
from rag.ngrams import passage_vectors
from rag.parsed import Order, ParsedChunk, Report, Vector, write_result
from rag.terms import pack_terms

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_VECTOR = np.empty(0, np.float32)


def main() -> int:
    """Parse one document; the exit code."""
    # Whatever a library prints must not be taken for the report.
    report_to = os.dup(1)
    os.dup2(2, 1)
    order = Order.from_line(sys.stdin.buffer.readline())
    confine(order.limits, parent=order.parent)
    os.write(report_to, _carried_out(order).to_line())
    return 0


def _carried_out(order: Order) -> Report:
    try:
        with os.fdopen(order.document, "rb") as document:
            document.seek(0)
            data = document.read()
        extracted = extract(data, type=order.type, encoding=order.encoding)
        del data
        with os.fdopen(order.result, "wb") as result:
            chunks = parsed_chunks(extracted, order, pack=pack_terms)
            write_result(result, type=order.type, document=extracted, chunks=chunks)
    except Invalid as error:
        return Report(code=error.code, message=str(error), reason=_place(error))
    except OSError as error:
        # Of all it does, writing the result alone needs room.
        kind = Unavailable if error.errno in NO_ROOM else UnreadableDocument
        return Report(code=kind.code, reason=_place(error))
    except Exception as error:  # noqa: BLE001 - a hostile file makes parsers raise any.
        return Report(code=UnreadableDocument.code, reason=_place(error))
    return Report()


def parsed_chunks(
    document: Extracted, order: Order, *, pack: Callable[[str], bytes]
) -> Iterator[ParsedChunk]:
    """The chunks with what search needs of them; `pack` makes a text's term row."""
    for chunk in chunked(document, sizes=order.sizes):
        text = document.text[chunk.start : chunk.end]
        yield ParsedChunk(
            start=chunk.start,
            end=chunk.end,
            page=chunk.page,
            heading_path=chunk.heading_path,
            terms=pack(text),
            vector=_vector(text) if order.ngrams else _NO_VECTOR,
        )


def _vector(text: str) -> Vector:
    vector: Vector = passage_vectors([text])[0]
    return vector


def _place(error: BaseException) -> str:
    """What was raised and where, without its words: they may quote the document."""
    error = error.__cause__ or error
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    )
    return type(error).__name__ + where


if __name__ == "__main__":
    sys.exit(main())
