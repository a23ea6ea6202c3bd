"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator

WORKERS = 16
_given: set[int] = set()


def free_port() -> int:
    """
    One that is free now, and is not given to anyone else before a server takes it.

    To clients the kernel gives those from 32768 on; of the others each worker of a test
    run has its own.
    """
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 20000 + WORKERS * secrets.randbelow(12768 // WORKERS) + mine % WORKERS
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address whose connections are never made: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
