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
    return {NAME: {"write": partial(write, ref(cycle))}}


def writer_of(scope: Mapping[str, Any]) -> Write | None:
    """What the server offers to write this request's answer with."""
    write: Write | None = scope.get("extensions", {}).get(NAME, {}).get("write")
    return write


def write(of: ref[RequestResponseCycle], part: bytes) -> bool:
    """
    Write a part as `send` does, more to follow; False where that has to wait.

    It is False, too, before the answer has begun, and once its client has gone.
    """
    cycle = of()
    if cycle is None or cycle.flow.write_paused or cycle.disconnected:
        return False
    if not cycle.chunked_encoding:
        return False
    if part:
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
    return True
