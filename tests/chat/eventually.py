"""Waiting for what happens on another thread or in another process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], seconds: float = 8.0) -> bool:
    """Whether `condition` comes true in time."""
    until = time.monotonic() + seconds
    waiter = threading.Event()
    while time.monotonic() < until:
        if condition():
            return True
        waiter.wait(0.02)
    return False
