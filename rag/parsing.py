"""A document's text, chunks and terms, made in a process of their own."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import llmbackend
from llmbackend import errors
from llmbackend.errors import ServerRestarting, UnreadableDocument
from rag.confinement import Limits
from rag.extraction.types import type_of
from rag.parsed import Order, Parsed, ParsedChunk, Report, read_result
from rag.sentences import Sizes

__all__ = ["Parsed", "ParsedChunk", "Sizes", "parse"]

logger = logging.getLogger(__name__)

WALL_SECONDS = 45.0
AT_ONCE = 2
_LOOK_UP_EVERY = 0.5
_LONGEST_REPORT = 16 << 10
_LONGEST_ENCODING = 100
# All a process is given of the server's environment, which holds provider keys.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# The errors a process may name; any other end of it is UnreadableDocument.
_REPORTED = (
    errors.EmptyDocument,
    errors.UnreadableDocument,
    errors.EncryptedDocument,
    errors.NoText,
    errors.UnsupportedType,
    errors.UnknownEncoding,
    errors.Unavailable,
)
# How many documents this process has others parse at once, whoever asks.
_slots = threading.BoundedSemaphore(AT_ONCE)


def parse(
    file: IO[bytes],
    *,
    name: str,
    encoding: str = "",
    sizes: Sizes,
    ngrams: bool = False,
    waiting: Callable[[], None] = lambda: None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen.
) -> Parsed:
    """
    Parse a whole file, of the type its name says; blocks, for up to a minute.

    `encoding` is the sender's word for a text file's. `waiting` is called every half
    second; what it raises ends the process and passes through. With `ngrams`, chunks
    have vectors. Raises EmptyDocument, UnreadableDocument, EncryptedDocument, NoText,
    UnsupportedType or UnknownEncoding, and Unavailable where there is no room for it
    or the server is being ended.
    """
    file_type = type_of(name)
    with ExitStack() as stack:
        stack.enter_context(_slot(waiting))
        result = stack.enter_context(tempfile.TemporaryFile())
        order = Order(
            parent=os.getpid(),
            document=_descriptor_of(file, stack),
            result=result.fileno(),
            type=file_type,
            encoding=encoding[:_LONGEST_ENCODING],
            sizes=sizes,
            ngrams=ngrams,
            limits=limits,
        )
        _raise_reported(_carried_out(order, waiting))
        try:
            return read_result(result)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("A parsing process left a result that cannot be read")
            raise UnreadableDocument from error


@contextmanager
def _slot(waiting: Callable[[], None]) -> Iterator[None]:
    while not _slots.acquire(timeout=_LOOK_UP_EVERY):
        waiting()
    try:
        yield
    finally:
        _slots.release()


def _descriptor_of(file: IO[bytes], stack: ExitStack) -> int:
    """A descriptor of the file; of a copy that `stack` closes, if it has none."""
    file.seek(0)  # What is written but not yet in the file is, now.
    with suppress(AttributeError, OSError):
        return file.fileno()
    copy: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    shutil.copyfileobj(file, copy)
    copy.flush()
    return copy.fileno()


def _carried_out(order: Order, waiting: Callable[[], None]) -> bytes:
    """
    What the process reports; less than a line if it was killed or took too long.

    Raises ServerRestarting where it was told to end, as a service manager tells every
    process of a service: the document is not at fault.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "rag.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(order.document, order.result),
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        | _ONE_THREAD,
        cwd=Path(llmbackend.__file__).parents[1],
        start_new_session=True,  # Ctrl-C is for the server, which drains first.
    )
    with process:
        try:
            report = _report_of(process, order, waiting)
        finally:
            process.kill()
    if process.returncode == -signal.SIGTERM:
        raise ServerRestarting
    return report


def _report_of(
    process: subprocess.Popen[bytes], order: Order, waiting: Callable[[], None]
) -> bytes:
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise TypeError("the process was started without pipes")
    with suppress(BrokenPipeError):
        stdin.write(order.to_line())
        stdin.close()
    give_up_at = time.monotonic() + WALL_SECONDS
    # Not select: a busy server has descriptors beyond what that can watch.
    poll = select.poll()
    poll.register(stdout, select.POLLIN)
    while not poll.poll(_LOOK_UP_EVERY * 1000):
        waiting()
        if time.monotonic() > give_up_at:
            logger.warning("A parsing process took over %.0f s", WALL_SECONDS)
            return b""
    # It is less than a pipe holds, and written at once.
    return os.read(stdout.fileno(), _LONGEST_REPORT)


def _raise_reported(line: bytes) -> None:
    try:
        report = Report.from_line(line)
    except (ValueError, TypeError):
        logger.warning("A parsing process died before its end")
        raise UnreadableDocument from None
    if not report.code:
        return
    logger.info("A document was refused: %s, %s", report.code, report.reason)
    kinds = (kind for kind in _REPORTED if kind.code == report.code)
    raise next(kinds, UnreadableDocument)(report.message)
