"""
Requests that nobody thought of, made by schemathesis from the API's own description.

`make fuzz` sends some thousands of them to a server, the suite some hundred. Nobody,
the owner of things and a stranger send the same; of a server's error, an answer that is
not described or one that is not as described, all are told at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi import checks

from tests import fake_provider
from tests.fake_provider import FakeProvider
from tests.patience import PATIENCE
from tests.rag.embeddings import Embeddings
from tests.served import ServeProcess, fake_section, serving

METRICS_TOKEN = "a-token-for-prometheus"
PASSWORD = "correct horse battery"
ACTORS = ("nobody", "owner", "stranger")
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# Cases an operation and an actor get before it is another's turn.
AT_ONCE = 12


@dataclass
class Tried:
    """What was tried, and what came of it."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    found: dict[str, str] = field(default_factory=dict)

    def note(self, title: str, failure: Failure, request: str) -> None:
        what = f"{title}: {failure.title}"
        self.found.setdefault(what, f"{what}\n{failure.message}\n{request}")


class Cast:
    """Two users of a server, and what one of them owns."""

    def __init__(self, server: ServeProcess) -> None:
        self.base_url = server.base_url
        self.things: dict[str, Any] = {}
        self.headers: dict[str, dict[str, str]] = {"nobody": {}}
        self._server = server

    def prepare(self) -> None:
        """Sign in and make again what earlier cases ended."""
        for actor in ("owner", "stranger"):
            self._sign_in(actor)
        with self._server.client(headers=self.headers["owner"]) as owner:
            conversation = self.things.get("conversation_id")
            path = f"/api/conversations/{conversation}"
            if conversation is None or owner.get(path).status_code == 404:
                self.things |= new_conversation(owner)
            query = {"kb_id": self.things.get("kb_id", "")}
            listed = owner.get("/api/rag/doc/list", params=query).json()
            if not listed.get("docs"):
                self.things |= new_base(owner)
            if not owner.get("/api/users/keys").json()["keys"]:
                body = {"name": "Mine", "scopes": ["chat"]}
                made = owner.post("/api/users/keys", json=body).json()
                self.things["key_id"] = made["key_id"]

    def _sign_in(self, actor: str) -> None:
        who = {"username": actor, "password": PASSWORD}
        with self._server.client(headers=self.headers.get(actor)) as client:
            if client.get("/api/users/me").status_code == 200:
                return
            client.post("/api/users/register", json=who)
            token = client.post("/api/users/login", json=who).json()["token"]
        self.headers[actor] = {"Authorization": f"Bearer {token}"}


def new_conversation(owner: httpx2.Client) -> dict[str, Any]:
    body = {"title": "Mine", "model": "gpt-4o"}
    made = owner.post("/api/conversations/create", json=body).json()
    conversation = made["conversation_id"]
    for _ in range(2):
        owner.post(f"/api/chat/{conversation}", json={"message": "Hi"})
    return {"conversation_id": conversation, "before": conversation, "message_id": 2}


def new_base(owner: httpx2.Client) -> dict[str, Any]:
    base = owner.post("/api/rag/kb/create", json={"kb_name": "Mine"}).json()["kb_id"]
    document = owner.post(
        "/api/rag/doc/upload",
        data={"kb_id": base},
        files={"file": ("a.txt", b"Swifts sleep on the wing.")},
    ).json()
    return {"kb_id": base, "doc_id": document["doc_id"]}


@contextmanager
def server_for(directory: Path) -> Iterator[ServeProcess]:
    with fake_provider.running() as provider:
        provider.routes["/embeddings"] = Embeddings()
        with serving(directory, **config(provider)) as server:
            yield server


def config(provider: FakeProvider) -> dict[str, Any]:
    (section,) = fake_section(provider.base_url)
    section["embedding_models"] = {"fake-embedding": "embed-3"}
    return {
        "providers": [section],
        "metrics": {"token": METRICS_TOKEN},
        "rag": {"default_embedding_model": "local-ngram"},
        "limits": {"messages_per_minute": 60, "tokens_per_month": 100_000_000},
    }


def fuzz(server: ServeProcess, *, cases: int) -> Tried:
    """
    Send so many requests; the same ones each time, but for the ids a server gives.

    Every operation gets its share from every actor; what has no more variants leaves
    its share to the others.
    """
    load_all_checks()
    with server.client() as client:
        described = schemathesis.openapi.from_dict(client.get("/api/schema").json())
    operations = [operation_of(found) for found in described.get_all_operations()]
    cast, tried, turn = Cast(server), Tried(), 0
    while tried.cases < cases:
        turn += 1
        for operation in operations:
            cast.prepare()
            for actor in ACTORS:
                most = min(AT_ONCE if turn > 1 else 2, cases - tried.cases)
                if most > 0:
                    try_operation(operation, actor, cast, tried, most=most, turn=turn)
    return tried


def operation_of(found: Any) -> Any:
    """An operation; fails where schemathesis cannot read one."""
    return found.ok()


def try_operation(
    operation: Any, actor: str, cast: Cast, tried: Tried, *, most: int, turn: int
) -> None:
    """Up to `most` requests of one operation by one actor."""
    title = f"{operation.label} by {actor}"
    headers = cast.headers[actor]
    if operation.path == "/metrics" and actor == "owner":
        headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    invalid = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @seed(turn)
    @settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(valid, valid, invalid), real=st.booleans())
    def send(case: Any, real: bool) -> None:
        if real:
            name_things(case, cast.things)
        tried.cases += 1
        response = case.call(base_url=cast.base_url, headers=headers, timeout=PATIENCE)
        tried.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                tried.note(title, failure, case.as_curl_command(headers=headers))
        except Failure as failure:
            tried.note(title, failure, case.as_curl_command(headers=headers))

    send()


def name_things(case: Any, things: dict[str, Any]) -> None:
    """Have a request speak of what there is where it speaks of such a thing."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: things[name] for name in part if name in things})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, server_for(Path(directory)) as up:
        tried = fuzz(up, cases=asked.cases)
    for found in tried.found.values():
        sys.stdout.write(f"{found}\n\n")
    statuses = ", ".join(f"{s}: {n}" for s, n in sorted(tried.statuses.items()))
    took = time.monotonic() - began
    sys.stdout.write(f"{tried.cases} cases in {took:.0f} s: {statuses}\n")
    sys.stdout.write(f"{len(tried.found)} findings\n")
    return 1 if tried.found else 0


if __name__ == "__main__":
    sys.exit(main())
