"""
An ASGI extension: a part of an answer's body is written without being awaited.

For streams. `send` takes two coroutines and some thirty lines for each piece, which
cost more than the rest of its way. daphne does not offer it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

NAME = "llmbackend.write"

Write = Callable[[bytes], bool]


def offered(cycle: RequestResponseCycle) -> dict[str, dict[object, object]]:
    """
    What the scope of `cycle` says of it among its `extensions`.

    By a weak reference: a cycle holds its scope, and would be garbage for a while.
    """
    return {NAME: {"writer": partial(_writer, ref(cycle))}}


def writer_of(scope: Mapping[str, Any]) -> Write | None:
    """
    What the server offers to write the rest of this request's answer with.

    It writes a part as `send` does, more to follow; it is False where that has to
    wait, and once the client has gone. To be asked for when the answer has begun.
    """
    writer = scope.get("extensions", {}).get(NAME, {}).get("writer")
    return writer() if writer else None


def _writer(of: ref[RequestResponseCycle]) -> Write | None:
    cycle = of()
    if cycle is None or not cycle.chunked_encoding:
        return None
    flow, transport = cycle.flow, cycle.transport

    def write(part: bytes) -> bool:
        if flow.write_paused or transport.is_closing():
            return False
        if part:
            transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    return write
