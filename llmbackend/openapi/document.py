"""
The OpenAPI document of the API, put together from the YAML files beside this one.

They say what a route takes and gives. What the code knows better is added here: the
errors of a route with their statuses and sentences, what every answer has, and who is
let in. Of an operation,

* `x-access` is `open`, the scopes an API key needs, or a name in ACCESS;
* `x-errors` are the codes of the errors that are its own; `provider` and `answer` stand
  for all there are of these.

An error that tells more than others do has a schema of its class's name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llmbackend import errors
from llmbackend.errors import LLMBackendError
from llmbackend.http import status_of

FOLDER = Path(__file__).parent
METHODS = ("get", "post", "put", "patch", "delete")
ACCESS: dict[str, list[dict[str, list[str]]]] = {
    "open": [],
    "a log-in": [{"token": []}],
    "metrics": [{"metricsToken": []}],
    "socket": [{"socketToken": ["chat"]}],
    "chat or ticket": [{"token": []}, {"apiKey": ["chat"]}, {"ticket": []}],
}
GROUPS: dict[str, type[LLMBackendError]] = {
    "provider": errors.ProviderError,
    "answer": errors.AnswerCut,
}
# Errors that tell more, with an example of it.
FACTS: dict[type[LLMBackendError], dict[str, Any]] = {
    errors.LimitReached: {
        "limit": "messages_per_minute",
        "allowed": 3,
        "retry_after": 57,
        "reset_time": 1795585989,
    },
    errors.QuotaExceeded: {"limit": "tokens_per_day", "allowed": 50000},
}
ANYWHERE = ("bad_host", "internal", "server_restarting", "database_unavailable")
# What REST framework refuses; consumers take any Accept.
NEGOTIATED = ("not_acceptable",)
OF_A_BODY = ("invalid", "too_large")
SIGNED_IN = ("unauthorized", "forbidden")
Operation = dict[str, Any]


@cache
def rendered() -> bytes:
    """The document as JSON; of its making nothing else is kept."""
    made = json.dumps(document(), ensure_ascii=False, separators=(",", ":"))
    return made.encode()


def document() -> dict[str, Any]:
    """The whole of it."""
    made = merged(read(path) for path in sorted(FOLDER.glob("*.yaml")))
    shared_responses = made["components"]["responses"]
    for name, response in shared_responses.items():
        shared_responses[name] = with_request_id(response)
    for path, item in made["paths"].items():
        shared = item.get("parameters", [])
        for method in METHODS:
            if method in item:
                item[method] = completed(path, item[method], shared)
    return made


def read(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        # Ten times quicker than the one in Python, where it is there.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found: dict[str, Any] = yaml.load(file, Loader=loader)  # noqa: S506
    return found


def merged(parts: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """One mapping of all; what two of them say differently is a mistake."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, dict):
                whole[key] = merged(iter((whole.get(key, {}), value)))
            elif whole.setdefault(key, value) != value:
                raise ValueError(f"{key} is said twice")
    return whole


def completed(path: str, given: Operation, shared: list[Any]) -> Operation:
    """An operation with what the code knows of it."""
    made = {k: v for k, v in given.items() if k not in {"x-access", "x-errors"}}
    access = given["x-access"]
    made["security"] = ACCESS.get(access) or security(access)
    if access == "open":
        made["security"] = []
    responses = {**made["responses"]}
    for status, kinds in by_status(codes_of(path, given, shared)).items():
        responses.setdefault(str(status), refusal(path, status, kinds))
    made["responses"] = {
        # What answers a WebSocket's handshake is the server itself.
        status: response if status == "101" else with_request_id(response)
        for status, response in sorted(responses.items())
    }
    return made


def security(scopes: str) -> list[dict[str, list[str]]]:
    """A token, or an API key that has all of the scopes."""
    return [{"token": []}, {"apiKey": scopes.split()}]


def codes_of(path: str, given: Operation, shared: list[Any]) -> list[str]:
    """Of all errors that the operation may answer with."""
    parameters = [*shared, *given.get("parameters", [])]
    codes = [*ANYWHERE, *given.get("x-errors", [])]
    codes += NEGOTIATED if is_negotiated(given) else ()
    codes += () if given["x-access"] == "open" else SIGNED_IN
    codes += OF_A_BODY if "requestBody" in given else ()
    return [*codes, *(["invalid"] if parameters else [])]


def is_negotiated(given: Operation) -> bool:
    """Whether an Accept without what the operation gives is refused."""
    answers = given["responses"]
    if given["x-access"] == "socket" or "204" in answers:
        return False
    return "text/markdown" not in answers.get("200", {}).get("content", {})


def by_status(codes: list[str]) -> dict[int, list[type[LLMBackendError]]]:
    """The errors of these codes, in the order of the tree, by status."""
    found = defaultdict(list)
    for kind in kinds_below(LLMBackendError):
        groups = [name for name, base in GROUPS.items() if issubclass(kind, base)]
        if {kind.code, *groups} & set(codes):
            found[status_of(kind())].append(kind)
    return found


def kinds_below(kind: type[LLMBackendError]) -> Iterator[type[LLMBackendError]]:
    for child in kind.__subclasses__():
        yield child
        yield from kinds_below(child)


def bodies_of(kinds: list[type[LLMBackendError]]) -> list[dict[str, Any]]:
    """What the bodies of these errors have beside a sentence and a request id."""
    plain = [kind.code for kind in kinds if kind not in FACTS]
    bodies: list[dict[str, Any]] = [
        {"$ref": f"#/components/schemas/{kind.__name__}"}
        for kind in kinds
        if kind in FACTS
    ]
    if plain:
        bodies.insert(0, {"type": "object", "properties": {"code": {"enum": plain}}})
    return bodies


def refusal(
    path: str, status: int, kinds: list[type[LLMBackendError]]
) -> dict[str, Any]:
    """The answer that says which of these errors it was."""
    of_rag = path.startswith("/api/rag/")
    base = {"$ref": f"#/components/schemas/{'RagError' if of_rag else 'Error'}"}
    bodies = bodies_of(kinds)
    told = bodies[0] if len(bodies) == 1 else {"oneOf": bodies}
    example: dict[str, Any] = {
        "error": str(kinds[0]()),
        "code": kinds[0].code,
        "request_id": "1c958fd760714dd2b6085b094c82855e",
        **FACTS.get(kinds[0], {}),
    }
    if of_rag:
        example = {"success": False, "message": example["error"], **example}
    made: dict[str, Any] = {
        "description": "\n".join(f"- `{kind.code}`: {kind()}" for kind in kinds),
        "content": {
            "application/json": {
                "schema": {"allOf": [base, told]},
                "example": example,
            }
        },
    }
    named = {401: ("WWW-Authenticate", "SignIn")}
    named |= dict.fromkeys((429, 503), ("Retry-After", "RetryAfter"))
    if status in named:
        header, component = named[status]
        made["headers"] = {header: {"$ref": f"#/components/headers/{component}"}}
    return made


def with_request_id(response: dict[str, Any]) -> dict[str, Any]:
    """Every answer has one; a shared response is told it where it stands."""
    if "$ref" in response:
        return response
    request_id = {"$ref": "#/components/headers/RequestId"}
    headers = {**response.get("headers", {}), "X-Request-ID": request_id}
    return {**response, "headers": headers}
