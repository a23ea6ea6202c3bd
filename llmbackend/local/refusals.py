"""How the model process refuses a request, and what it takes for one at all."""

from __future__ import annotations

import json
from typing import Any

RETRY_AFTER = 5


class Refused(Exception):
    """A request that is answered with an error and nothing else."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int = RETRY_AFTER
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after  # Seconds; said with a 503.


class BadRequest(Refused):
    """A request this server does not take; the message says what is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "invalid_request", message)


def request_for(model: str, raw: bytes) -> dict[str, Any]:
    """The JSON object of a request to `model`; raise BadRequest."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON.") from error
    if not isinstance(data, dict):
        raise BadRequest("The body is not a JSON object.")
    if str(data.get("model")).casefold() != model.casefold():
        raise BadRequest(f"{model} is the only model for this.")
    return data
