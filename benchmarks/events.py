"""Standard server-sent events, as an asynchronous client reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

ACCEPT = {"Accept": "text/event-stream"}

# An event's name, its data, and its id; "" where it has none.
Event = tuple[str, Any, str]


async def events_in(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """The events of a stream as its lines come; comments left out."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            told = json.loads(fields["data"])
            yield told["event"], told["data"], fields.get("id", "")
        fields = {}
