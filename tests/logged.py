"""What a test's own thread logged: the server of other tests goes on beside it."""

from __future__ import annotations

import logging
import threading

import pytest


def logged_here(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.thread == threading.get_ident()]
