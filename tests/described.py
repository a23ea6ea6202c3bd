"""What the OpenAPI document says of an answer, held against the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx2
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from llmbackend.openapi.document import document

HERE = "urn:llmbackend"
DOCUMENT = document()
REGISTRY: Registry[Any] = Registry().with_resource(
    HERE, DRAFT202012.create_resource(DOCUMENT)
)


@cache
def validator(pointer: str) -> Draft202012Validator:
    """For the schema that a JSON pointer such as /components/schemas/Line names."""
    return Draft202012Validator(
        {"$ref": f"{HERE}#{pointer}"},
        registry=REGISTRY,
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def complaints(pointer: str, value: Any) -> list[str]:
    """What is wrong with a value by that schema."""
    return [
        f"{error.json_path}: {error.message}"
        for error in validator(pointer).iter_errors(value)
    ]


def escaped(part: str) -> str:
    return (
        part.replace("~", "~0")
        .replace("/", "~1")
        .replace("{", "%7B")
        .replace("}", "%7D")
    )


def resolved(pointer: str) -> tuple[str, Any]:
    """Where what a pointer names really stands, and what it is."""
    found: Any = DOCUMENT
    for part in pointer.split("/")[1:]:
        name = part.replace("%7B", "{").replace("%7D", "}")
        name = name.replace("~1", "/").replace("~0", "~")
        found = found[int(name) if isinstance(found, list) else name]
    if isinstance(found, dict) and "$ref" in found:
        return resolved(found["$ref"].removeprefix("#"))
    return pointer, found


def assert_described(route: tuple[str, str], response: httpx2.Response) -> None:
    """`route` is a method and a path such as /api/chat/:conversation_id."""
    method, path = route
    parts = [f"{{{p[1:]}}}" if p[:1] == ":" else p for p in path.split("/")]
    operation = f"/paths/{escaped('/'.join(parts))}/{method.lower()}"
    responses = resolved(f"{operation}/responses")[1]
    status = str(response.status_code)
    assert status in responses, f"{method} {path}: {status} is not described"
    pointer, described = resolved(f"{operation}/responses/{status}")
    _assert_headers(pointer, described.get("headers", {}), response.headers)
    if "content" not in described:
        assert response.content == b"", response.text
        return
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in described["content"], f"{method} {path}: {kind} is not described"
    if kind == "text/event-stream":
        assert_events(response.text)
        return
    schema = f"{pointer}/content/{escaped(kind)}/schema"
    body = response.json() if kind == "application/json" else response.text
    assert complaints(schema, body) == [], f"{method} {path} {status}: {response.text}"


def _assert_headers(
    pointer: str, described: dict[str, Any], sent: Mapping[str, str]
) -> None:
    for name in described:
        where, header = resolved(f"{pointer}/headers/{name}")
        value: Any = sent.get(name)
        if value is None:
            assert not header.get("required"), name
            continue
        whole = resolved(f"{where}/schema")[1].get("type") == "integer"
        assert complaints(f"{where}/schema", int(value) if whole else value) == [], name


def assert_events(text: str) -> set[str]:
    """Hold each event or line of a stream against its schema; the names there were."""
    assert text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n")
    # Standard events begin with a field, lines with an object.
    return set(map(named_line if text.startswith("{") else named_event, blocks))


def named_line(block: str) -> str:
    told = json.loads(block)
    assert complaints("/components/schemas/Line", told) == [], block
    return str(told["event"])


def named_event(block: str) -> str:
    fields: dict[str, Any] = {}
    for line in block.splitlines():
        name, _, value = line.partition(": ")
        if name != ":":  # A comment.
            fields[name] = int(value) if name == "retry" else value
    assert complaints("/components/schemas/ServerSentEvent", fields) == [], block
    told = json.loads(fields["data"])
    assert complaints("/components/schemas/Event", told) == [], block
    assert told["event"] == fields["event"]
    return str(told["event"])
