"""The OpenAPI document is valid, whole and true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import validate

from accounts.grants import LOG_IN
from accounts.limits import NAMES
from llmbackend import errors
from llmbackend.openapi.document import METHODS, rendered
from tests.chat.eventually import eventually
from tests.chat.sockets import socket_of
from tests.chat.streams import SSE
from tests.chat.test_limits import limit
from tests.conftest import Client
from tests.described import (
    DOCUMENT,
    assert_described,
    assert_events,
    complaints,
    escaped,
    resolved,
)
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE
from tests.rag.embeddings import make_base, upload
from tests.routes import api_routes, socket_paths
from tests.test_errors import CLASSES
from tests.test_ownership import ROWS

HOW = (
    "CONTRIBUTING.md, “How to add an endpoint”, says how; its neighbours in "
    "llmbackend/openapi/*.yaml are the pattern."
)

Spot = tuple[str, Any]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path as documents write it, and operation."""
    for path, item in DOCUMENT["paths"].items():
        readable = re.sub(r"\{(\w+)\}", r":\1", path)
        for method in METHODS:
            if method in item:
                yield method.upper(), readable, item[method]


def spots(node: Any = DOCUMENT, pointer: str = "") -> Iterator[Spot]:
    """Every mapping in the document, and where it is."""
    if isinstance(node, dict):
        yield pointer, node
        for key, value in node.items():
            yield from spots(value, f"{pointer}/{escaped(str(key))}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from spots(value, f"{pointer}/{index}")


class TestTheDocument:
    def test_it_is_openapi(self) -> None:
        validate(DOCUMENT)

        assert DOCUMENT["openapi"] == "3.1.0"

    def test_every_route_is_in_it(self) -> None:
        described = {(method, path) for method, path, _ in operations()}
        routes = {(m, route.path) for route in api_routes() for m in route.methods}
        routes |= {("GET", path) for path in socket_paths()}

        for method, path in sorted(routes - described):
            pytest.fail(f"{method} {path} is not described. {HOW}")
        for method, path in sorted(described - routes):
            pytest.fail(f"{method} {path} is described, and is no route (any more).")

    def test_every_operation_has_a_name_of_its_own_and_a_known_tag(self) -> None:
        names = [operation["operationId"] for _, _, operation in operations()]
        tags = {tag["name"] for tag in DOCUMENT["tags"]}

        assert len(names) == len(set(names))
        for _, _, operation in operations():
            assert operation["summary"]
            assert set(operation["tags"]) <= tags

    def test_it_says_who_is_let_in_like_the_table_of_owners(self) -> None:
        told = {(m, path): operation["security"] for m, path, operation in operations()}

        for row in ROWS:
            let_in = told[row.route]
            if row.path == "/metrics":
                assert let_in == [{"metricsToken": []}]
                continue
            scopes = [each["apiKey"] for each in let_in if "apiKey" in each]
            assert bool(let_in) == (row.door != "open"), row.route
            assert not let_in or {"token": []} in let_in
            by_key = row.door != "open" and row.scope != LOG_IN
            assert scopes == ([row.scopes] if by_key else []), row.route

    def test_each_error_is_told_by_some_route_or_by_none_that_sends_it(self) -> None:
        text = rendered().decode()
        told = {kind.code for kind in CLASSES if f'"{kind.code}"' in text}
        # No operation is another method than it is, and no conflict is only that.
        elsewhere = {errors.MethodNotAllowed.code, errors.Conflict.code}
        kinds = {kind.code for kind in CLASSES} - elsewhere

        assert told == kinds, f"x-errors of no route names these. {HOW}"

    def test_every_reference_leads_somewhere_and_every_component_is_used(self) -> None:
        used = {node["$ref"] for _, node in spots() if "$ref" in node}
        parts = DOCUMENT["components"]
        there = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "responses", "parameters", "headers")
            for name in parts[kind]
        }

        for reference in used:
            resolved(reference.removeprefix("#"))
        assert used == there

    def test_every_schema_named_in_it_has_an_example_that_is_one(self) -> None:
        tried = 0
        for pointer, node in spots():
            if "/example" in pointer:
                continue
            for where, example in examples_of(pointer, node):
                assert complaints(where, example) == [], pointer
                tried += 1

        assert tried > 100

    def test_every_body_and_parameter_has_an_example(self) -> None:
        for pointer, node in spots():
            if "schema" in node and not pointer.endswith("/properties"):
                assert list(examples_of(pointer, node)), pointer


def examples_of(pointer: str, node: dict[str, Any]) -> Iterator[Spot]:
    """The examples beside or in a schema, and where the schema is."""
    if "schema" in node:
        where = resolved(f"{pointer}/schema")[0]
        if "example" in node:
            yield where, node["example"]
        for example in node.get("examples", {}).values():
            yield where, example["value"]
    elif isinstance(node.get("examples"), list):
        for example in node["examples"]:
            yield pointer, example


class TestStreams:
    def test_the_examples_of_streams_are_made_of_the_events_described(self) -> None:
        _, stream = resolved("/components/responses/Stream/content/text~1event-stream")

        assert stream["x-lines"] == {"$ref": "#/components/schemas/Line"}
        shown = stream["x-streams"]
        assert assert_events(shown["sse"]) >= {"started", "message", "usage", "done"}
        assert assert_events(shown["seed"]) == {"message", "done", "full_response"}

    @pytest.mark.parametrize("form", ["sse", "seed"])
    def test_what_a_server_streams_is_made_of_the_events_described(
        self, form: str, as_alice: Client, provider: FakeProvider
    ) -> None:
        names: set[str] = set()
        base = make_base(as_alice)
        upload(as_alice, base, "Swifts sleep on the wing.")
        query = {"format": form}
        for script, fields in (
            (Script(reasoning=["Hm."]), {}),
            (Script(pieces=["Hel"], cut="fin", cut_after=1), {}),
            (Script(pieces=["[1] [7]"]), {"kb_id": base}),
        ):
            provider.enqueue(script)
            path = f"/api/chat/{as_alice.conversation()}"
            body = {"message": "Do swifts sleep?", **fields}
            answer = as_alice.post(path, json=body, params=query)

            assert_described(("POST", "/api/chat/:conversation_id"), answer)
            names |= assert_events(answer.text)
            again = as_alice.get(
                f"{path}/stream", params={**query, "last_event_id": "2-0-0"}
            )
            assert_described(("GET", "/api/chat/:conversation_id/stream"), again)
            names |= assert_events(again.text)

        ours = {"message", "done", "error"}
        assert names == ours | (
            {"started", "sources", "reasoning", "usage"}
            if form == "sse"
            else {"full_response"}
        )

    def test_what_goes_over_a_socket_is_described(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        held = Script(stall_after=1)
        provider.enqueue(held)
        conversation = as_alice.conversation()
        with socket_of(as_alice, conversation) as socket:
            for command in (
                {"type": "message", "message": "Hi"},
                {"type": "stop"},
                {"type": "stop"},
                {"type": "resume"},
                {"type": "regenerate", "message_id": 4711},
            ):
                assert complaints("/components/schemas/Command", command) == []
                socket.connection.send(json.dumps(command))
                if command["type"] == "message":
                    eventually(held.reached.is_set)
                    continue
                while True:
                    frame = json.loads(socket.connection.recv(PATIENCE))
                    assert complaints("/components/schemas/SocketEvent", frame) == []
                    if frame["event"] in {"done", "idle", "error"}:
                        break

        ready = {"event": "ready", "data": {"conversation_id": conversation}}
        assert complaints("/components/schemas/SocketEvent", ready) == []
        assert complaints("/components/schemas/SocketEvent", {"event": "x"})
        assert complaints("/components/schemas/Command", {"type": "message"})


class TestFiles:
    @pytest.mark.parametrize("form", ["json", "md"])
    def test_an_export_is_as_described(
        self, form: str, as_alice: Client, provider: FakeProvider
    ) -> None:
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        as_alice.post(f"/api/chat/{conversation}/regenerate", json={})
        path = "/api/conversations/{}/export"

        answer = as_alice.get(path.format(conversation), params={"format": form})

        assert_described(("GET", path.format(":conversation_id")), answer)

    @pytest.mark.parametrize("form", ["llmbackend", "ChatGPT"])
    def test_an_example_of_an_import_can_be_imported(
        self, form: str, as_alice: Client
    ) -> None:
        path = "/api/conversations/import"
        operation = DOCUMENT["paths"][path]["post"]
        shown = operation["requestBody"]["content"]["application/json"]["examples"]

        answer = as_alice.post(path, json=shown[form]["value"])

        assert answer.status_code == 200, answer.text
        assert_described(("POST", path), answer)
        (made,) = answer.json()["conversations"]
        assert len(as_alice.history(made["conversation_id"])) == 2

    def test_pages_of_hits_are_as_described(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        as_alice.ask(as_alice.conversation(title="Swifts"), "Do swifts sleep? Swifts?")
        path, query = "/api/conversations/search", {"q": "swifts", "limit": "1"}

        title = as_alice.get(path, params=query)
        query["before"] = title.headers["x-next-before"]
        message = as_alice.get(path, params=query)

        for answer in (title, message):
            assert len(answer.json()) == 1
            assert_described(("GET", path), answer)


class TestLimits:
    """Refusals that say which limit it was, and what is said of what is left."""

    def test_an_answer_and_the_account_say_what_is_left(
        self, as_alice: Client, provider: FakeProvider, settings: Any
    ) -> None:
        limit(settings, **dict.fromkeys(NAMES, 50_000))

        answer = as_alice.ask(as_alice.conversation(), "Hi", headers=SSE)
        account = as_alice.get("/api/users/me/usage")

        assert '"remaining":' in answer.text
        assert_described(("POST", "/api/chat/:conversation_id"), answer)
        assert all(account.json()["limits"].values())
        assert_described(("GET", "/api/users/me/usage"), account)

    @pytest.mark.parametrize(
        ("limits", "status"),
        [({"messages_per_minute": 1}, 429), ({"tokens_per_day": 10}, 413)],
    )
    def test_a_question_beyond_one_is_refused_as_described(
        self,
        limits: dict[str, int],
        status: int,
        as_alice: Client,
        provider: FakeProvider,
        settings: Any,
    ) -> None:
        conversation, base = as_alice.conversation(), make_base(as_alice)
        as_alice.ask(conversation, "Hi")
        limit(settings, **limits)
        if status == 429:
            as_alice.ask(conversation, "Hi")
        body = {"conversation_id": conversation, "kb_id": base, "message": "Hi"}
        path = "/api/chat/:conversation_id"
        schema = {429: "LimitReached", 413: "QuotaExceeded"}[status]
        for route, fields in (
            (path, {"message": "Hi"}),
            (f"{path}/regenerate", {}),
            (f"{path}/edit", {"message_id": 1, "message": "Hello"}),
            ("/api/rag/chat", body),
        ):
            url = route.replace(":conversation_id", str(conversation))
            answer = as_alice.post(url, json=fields)

            assert answer.status_code == status, answer.text
            assert_described(("POST", route), answer)
            assert complaints(f"/components/schemas/{schema}", answer.json()) == []
        with socket_of(as_alice, conversation) as socket:
            socket.send("message", message="Hi")
            told = socket.event().data

        assert complaints(f"/components/schemas/{schema}", told) == []
        assert complaints(f"/components/schemas/{schema}", {**told, "limit": "x"})

    def test_a_document_too_many_is_refused_as_described(
        self, as_alice: Client, settings: Any
    ) -> None:
        base = make_base(as_alice)
        upload(as_alice, base, "Swifts sleep on the wing.")
        limit(settings, documents=1)
        path = "/api/rag/doc/upload"

        answer = as_alice.post(
            path, data={"kb_id": base}, files={"file": ("b.txt", b"Gulls do not.")}
        )

        assert answer.json()["limit"] == "documents"
        assert_described(("POST", path), answer)
        assert complaints("/components/schemas/QuotaExceeded", answer.json()) == []


class TestServed:
    def test_the_document_is_served_as_it_is(self, anonymous: Client) -> None:
        answer = anonymous.get("/api/schema", headers=SSE)

        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == DOCUMENT

    @pytest.mark.parametrize("path", ["/api/docs", "/api/redoc"])
    def test_a_page_loads_nothing_from_elsewhere(
        self, path: str, anonymous: Client
    ) -> None:
        answer = anonymous.get(path)

        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        files = re.findall(r'(?:href|src)="([^"]+)"', answer.text)
        assert len(files) >= 3
        for file in files:
            assert file.startswith("/static/")
            assert anonymous.get(file).status_code == 200, file
