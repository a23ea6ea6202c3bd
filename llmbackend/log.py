"""The log: which request a line is about, and lines that programs read."""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="-")
request_path: ContextVar[str] = ContextVar("request_path", default="")
request_address: ContextVar[str] = ContextVar("request_address", default="-")

logger = logging.getLogger(__name__)


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to every record; "-" outside a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class JsonFormatter(logging.Formatter):
    """
    One JSON object a line.

    Of what is attached to a record only `fields`, a mapping, is told beside the usual:
    libraries attach whole requests to theirs.
    """

    def format(self, record: logging.LogRecord) -> str:
        about = request_id.get()
        told: dict[str, Any] = {
            "time": iso_time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "request_id": None if about == "-" else about,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        # In ASCII, whatever the encoding of where it goes.
        return json.dumps(told)


def iso_time(created: float) -> str:
    """
    >>> iso_time(1795468535.5)
    '2026-11-23T21:15:35.500Z'
    """
    moment = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def spare_what_no_line_says() -> None:
    """Have no record find out where in the code it was made, and on which thread."""
    # As "Optimization" in Python's logging HOWTO has it.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False


def take_what_is_printed() -> None:
    """Log what Python itself would print to standard error: warnings, tracebacks."""
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda gone: _log_uncaught(gone.exc_value)
    threading.excepthook = lambda ended: _log_uncaught(ended.exc_value)


def _uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, Exception):
        _log_uncaught(error)
    else:
        sys.__excepthook__(kind, error, trace)


def _log_uncaught(error: BaseException | None) -> None:
    logger.critical("Uncaught exception", exc_info=error)
