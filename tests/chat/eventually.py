"""Waiting for what happens on another thread or in another process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.conftest import Served
from tests.patience import PATIENCE, SOON


def eventually(condition: Callable[[], Any], seconds: float = SOON) -> bool:
    """Whether `condition` comes true in time."""
    until = time.monotonic() + seconds
    waiter = threading.Event()
    while time.monotonic() < until:
        if condition():
            return True
        waiter.wait(0.02)
    return False


def on_loop(served: Served, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns on the server's event loop."""
    loop = served.application.answers._loop
    return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE)
