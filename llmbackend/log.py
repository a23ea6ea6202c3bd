"""What request this is about: its id, which log lines carry, its path, its client."""

from __future__ import annotations

import logging
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
request_path: ContextVar[str] = ContextVar("request_path", default="")
request_address: ContextVar[str] = ContextVar("request_address", default="-")


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to every record; "-" outside a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True
