"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import secrets
import socket


def free_port() -> int:
    """
    One that is free now, and is not given to a client before a server takes it.

    Those that the kernel gives begin at 32768.
    """
    while True:
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
