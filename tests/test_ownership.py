"""
Who may do what: one row for each route, method and WebSocket, tried by every actor.

A new route fails here until it has a row. A row about a new kind of thing needs that
thing in `owned_by` of tests/world.py and in UNKNOWN, and nothing else.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import pytest
from django.db import connection
from django.utils import timezone

from accounts.grants import LOG_IN, SCOPES
from accounts.models import ApiKey, User
from tests.chat.sockets import opened, token_of
from tests.conftest import (
    PASSWORD,
    Client,
    Served,
    client_with,
    make_key,
    remove_rows,
    until_idle,
)
from tests.described import assert_described
from tests.fake_provider import FakeProvider
from tests.routes import METHODS, api_routes, socket_paths
from tests.world import ACTORS, MODELS, NOBODY, OTHERS, Cast, World, make_world

Door = Literal["open", "signed in", "owner"]


@dataclass(frozen=True)
class Row:
    """
    One request that succeeds when Alice makes it.

    `{name}` in path and body is filled from what she owns. The door says who else may:
    anybody, any user, or nobody; the scopes, what an API key of Alice's must have.
    With `file` the body is a form that holds it.
    """

    method: str
    path: str
    door: Door
    scope: str = ""
    body: dict[str, Any] | None = None
    status: int = 200
    file: str = ""

    @property
    def scopes(self) -> list[str]:
        return [self.scope] if self.scope == LOG_IN else self.scope.split()

    @property
    def route(self) -> tuple[str, str]:
        path = self.path.partition("?")[0]
        return self.method, re.sub(r"\{(\w+)\}", r":\1", path)

    def request(self, things: dict[str, Any], *, slash: str = "") -> dict[str, Any]:
        """What httpx2 sends for this row about `things`."""
        path, mark, query = self.path.partition("?")
        body = self.body and {k: filled(v, things) for k, v in self.body.items()}
        url = (path + slash + mark + query).format(**things)
        if not self.file:
            return {"method": self.method, "url": url, "json": body}
        files = {"file": ("a.txt", self.file.encode())}
        return {"method": self.method, "url": url, "data": body, "files": files}


def filled(value: Any, things: dict[str, Any]) -> Any:
    """Of a name in braces the thing itself, which may be a number."""
    named = isinstance(value, str) and value[:1] == "{"
    return things[value[1:-1]] if named else value


LOGIN = {"username": "bob", "password": PASSWORD}
NEWCOMER = {"username": "newcomer", "password": PASSWORD}
NEW_PASSWORD = {"password": PASSWORD, "new_password": "another fine password"}
NEW_KEY: dict[str, Any] = {"name": "Mine", "scopes": ["chat"]}
NEW_CONVERSATION = {"title": "Mine", "model": "gpt-4o"}

# What a request names in its body or path, and that no one owns.
UNKNOWN = {
    "conversation_id": 4711,
    "kb_id": str(uuid.uuid4()),
    "doc_id": str(uuid.uuid4()),
    "key_id": str(uuid.uuid4()),
}
IN_BASE = {"kb_id": "{kb_id}"}
RAG_ASK = {"conversation_id": "{conversation_id}", "message": "Hi", **IN_BASE}
ONE: dict[str, Any] = {"message_id": 1}
MINE = {"title": "Mine"}
EDIT: dict[str, Any] = {"message_id": 1, "message": "Hello"}
IMPORT: dict[str, Any] = {
    "format": "llmbackend.conversations",
    "version": 1,
    "conversations": [],
}
SEARCH_ON = "/api/conversations/search?q=Alice&before={conversation_id}"

ROWS = [
    Row("GET", "/healthz", "open"),
    Row("GET", "/readyz", "open"),
    Row("GET", "/metrics", "open", status=404),
    Row("GET", "/api/schema", "open"),
    Row("GET", "/api/docs", "open"),
    Row("GET", "/api/redoc", "open"),
    Row("POST", "/api/users/register", "open", body=NEWCOMER, status=201),
    Row("POST", "/api/users/login", "open", body=LOGIN),
    Row("POST", "/api/users/token/refresh", "open", body={"refresh": "{refresh}"}),
    Row("POST", "/api/users/logout", "signed in", "a log-in"),
    Row("POST", "/api/users/logout_all", "signed in", "account"),
    Row("POST", "/api/users/password", "signed in", "account", NEW_PASSWORD),
    Row("GET", "/api/users/me", "signed in", "account"),
    Row("PATCH", "/api/users/me", "signed in", "account", {"first_name": "Al"}),
    Row("DELETE", "/api/users/me", "signed in", "account", {"password": PASSWORD}),
    Row("GET", "/api/users/me/usage", "signed in", "account"),
    Row("POST", "/api/users/keys", "signed in", "a log-in", NEW_KEY, status=201),
    Row("GET", "/api/users/keys", "signed in", "account"),
    Row("DELETE", "/api/users/keys/{key_id}", "owner", "a log-in"),
    Row("POST", "/api/conversations/create", "signed in", "chat", NEW_CONVERSATION),
    Row("POST", "/api/conversations/import", "signed in", "chat", IMPORT),
    Row("GET", "/api/conversations/list", "signed in", "chat"),
    Row("GET", "/api/conversations/list?before={conversation_id}", "owner", "chat"),
    Row("GET", "/api/conversations/search?q=Alice", "signed in", "chat"),
    Row("GET", SEARCH_ON, "owner", "chat"),
    Row("GET", "/api/conversations/history/{conversation_id}", "owner", "chat"),
    Row("POST", "/api/conversations/del/{conversation_id}", "owner", "chat"),
    Row("GET", "/api/conversations/{conversation_id}", "owner", "chat"),
    Row("PATCH", "/api/conversations/{conversation_id}", "owner", "chat", MINE),
    Row("GET", "/api/chat/models", "signed in", "chat"),
    Row("POST", "/api/chat/{conversation_id}", "owner", "chat", {"message": "Hi"}),
    Row("POST", "/api/chat/{conversation_id}/regenerate", "owner", "chat", {}),
    Row(
        "POST", "/api/chat/{conversation_id}/continue", "owner", "chat", {}, status=409
    ),
    Row("POST", "/api/chat/{conversation_id}/edit", "owner", "chat", EDIT),
    Row("GET", "/api/chat/{conversation_id}/stream", "owner", "chat", status=204),
    Row("POST", "/api/chat/{conversation_id}/ticket", "owner", "chat"),
    Row("POST", "/api/chat/{conversation_id}/stop", "owner", "chat", {}),
    Row("POST", "/api/conversations/{conversation_id}/branch", "owner", "chat", ONE),
    Row("POST", "/api/conversations/{conversation_id}/duplicate", "owner", "chat"),
    Row("GET", "/api/conversations/{conversation_id}/export", "owner", "chat"),
    Row("POST", "/api/rag/kb/create", "signed in", "kb:write", {"kb_name": "Mine"}),
    Row("GET", "/api/rag/kb/list", "signed in", "kb:read"),
    Row("POST", "/api/rag/kb/delete", "owner", "kb:write", IN_BASE),
    Row(
        "POST", "/api/rag/doc/upload", "owner", "kb:write", IN_BASE, file="Swifts fly."
    ),
    Row("GET", "/api/rag/doc/list?kb_id={kb_id}", "owner", "kb:read"),
    Row(
        "POST",
        "/api/rag/doc/delete",
        "owner",
        "kb:write",
        {**IN_BASE, "doc_id": "{doc_id}"},
    ),
    Row("POST", "/api/rag/retrieve", "owner", "kb:read", {**IN_BASE, "query": "Alice"}),
    Row("POST", "/api/rag/chat", "owner", "chat kb:read", RAG_ASK),
    Row("GET", "/api/rag/models", "signed in", "kb:read"),
]
# WebSockets that open for the owner of what their path names.
SOCKETS = ["/ws/chat/{conversation_id}"]


def named(rows: list[Row]) -> list[Any]:
    return [pytest.param(row, id=" ".join(row.route)) for row in rows]


OWNERS = [row for row in ROWS if row.door == "owner"]
GUARDED = [row for row in ROWS if row.door != "open"]
all_rows = pytest.mark.parametrize("row", named(ROWS))
all_sockets = pytest.mark.parametrize("path", SOCKETS)
owners_rows = pytest.mark.parametrize("row", named(OWNERS))
keyed_rows = pytest.mark.parametrize(
    "row", named([row for row in GUARDED if row.scope != LOG_IN])
)
guarded_rows = pytest.mark.parametrize("row", named(GUARDED))


@pytest.fixture(scope="module")
def once(
    served: Served, provider_process: FakeProvider, django_db_blocker: Any
) -> World:
    """The world as it was made; its rows are put back for each test."""
    provider_process.reset()
    with django_db_blocker.unblock():
        made = make_world(served)
        until_idle(served)
        remove_rows()
    return made


@pytest.fixture
def world(server: Served, once: World) -> World:
    once.put_back()
    return once


@pytest.fixture
def alice(world: World) -> User:
    return User.objects.get(username="alice")


@pytest.fixture
def owned(world: World) -> dict[str, Any]:
    """What Alice owns, one of each kind, and the refresh token of someone else."""
    return world.owned


@pytest.fixture
def cast(server: Served, world: World) -> Iterator[Cast]:
    """A client for each actor; a deactivated Alice is so from her request on."""
    with ExitStack() as stack:
        yield Cast(
            lambda actor: stack.enter_context(client_with(server, world.bearers[actor]))
        )


def befall(actor: str) -> None:
    """What happened to Alice since she was given her token."""
    alice = User.objects.filter(username="alice")
    if actor == "alice deactivated":
        alice.update(is_active=False)
    elif actor == "alice logged out everywhere":
        alice.update(token_version=1)


def expected_status(row: Row, actor: str) -> int:
    if row.door == "open" or actor == "alice":
        return row.status
    if actor in NOBODY:
        return 401
    return 404 if row.door == "owner" else row.status


def stored() -> dict[str, list[Any]]:
    """Every row there is, except the heartbeats of serving processes."""
    with connection.cursor() as cursor:
        return {
            model._meta.label: cursor.execute(
                f'SELECT * FROM "{model._meta.db_table}"'  # noqa: S608
            ).fetchall()
            for model in MODELS
        }


def without_request_id(response: httpx2.Response) -> tuple[Any, ...]:
    """All that a client can tell two answers apart by."""
    body = {**response.json(), "request_id": ""}
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in {"date", "x-request-id"}
    }
    return response.status_code, body, headers


def told_by_socket(client: Client, path: str) -> tuple[list[Any], int]:
    """What a client with its token is told at first, and what it is closed with."""
    token = token_of(client)
    with opened(client, path, *(["bearer", token] if token else [])) as socket:
        if not token:
            socket.send("stop")
        first = socket.event()
        if first.name == "ready":
            return [first], 0
        rest, code = socket.last_words()
    told = [{**event.data, "request_id": ""} for event in (first, *rest)]
    return told, code


class TestTheTable:
    def test_every_route_has_a_row(self) -> None:
        paths = {path for _, path in (row.route for row in ROWS)}

        assert {route.path for route in api_routes()} == paths

    def test_every_socket_has_a_row(self) -> None:
        assert [
            re.sub(r"\{(\w+)\}", r":\1", path) for path in SOCKETS
        ] == socket_paths()

    def test_every_method_of_a_viewset_has_a_row(self) -> None:
        routes = {(m, route.path) for route in api_routes() for m in route.methods}

        assert routes <= {row.route for row in ROWS}

    def test_every_row_but_open_ones_names_its_scopes(self) -> None:
        for row in ROWS:
            assert (row.door == "open") == (row.scopes == []), row.route
            assert row.scopes == [LOG_IN] or set(row.scopes) <= set(SCOPES)

    @pytest.mark.parametrize("path", sorted({row.path for row in ROWS}))
    def test_every_other_method_is_a_405(
        self, path: str, as_alice: Client, owned: dict[str, Any]
    ) -> None:
        taken = {row.method for row in ROWS if row.path == path}

        for method in sorted(set(METHODS) - taken):
            response = as_alice.request(method, path.format(**owned), json={})

            assert (method, response.status_code) == (method, 405)
            assert response.json()["code"] == "method_not_allowed"
            assert taken <= set(response.headers["allow"].split(", "))

    def test_the_admin_takes_no_bearer_token(self, cast: Cast) -> None:
        response = cast["staff"].get("/admin/")

        assert response.status_code == 302
        assert response.headers["location"].startswith("/admin/login/")


@pytest.mark.parametrize("actor", ACTORS)
@all_rows
def test_the_door_decides_the_status(
    row: Row, actor: str, cast: Cast, owned: dict[str, Any]
) -> None:
    befall(actor)

    response = cast[actor].request(**row.request(owned))

    assert response.status_code == expected_status(row, actor), response.text
    assert_described(row.route, response)


@all_rows
def test_a_slash_at_the_end_changes_nothing(
    row: Row, cast: Cast, owned: dict[str, Any]
) -> None:
    response = cast["alice"].request(**row.request(owned, slash="/"))

    assert response.status_code == row.status


@pytest.mark.parametrize("actor", OTHERS)
@owners_rows
def test_what_is_someone_elses_answers_like_what_is_not_there(
    row: Row, actor: str, cast: Cast, owned: dict[str, Any]
) -> None:
    foreign = cast[actor].request(**row.request(owned))
    unknown = cast[actor].request(**row.request(UNKNOWN))

    assert without_request_id(foreign) == without_request_id(unknown)


@owners_rows
def test_an_unknown_id_is_a_404_for_its_would_be_owner_too(
    row: Row, cast: Cast
) -> None:
    assert cast["alice"].request(**row.request(UNKNOWN)).status_code == 404


@pytest.mark.parametrize("actor", [*NOBODY, *OTHERS])
@owners_rows
def test_a_refused_request_changes_nothing(
    row: Row,
    actor: str,
    cast: Cast,
    owned: dict[str, Any],
    provider: FakeProvider,
) -> None:
    befall(actor)
    before, asked = stored(), len(provider.requests)

    cast[actor].request(**row.request(owned))

    assert stored() == before
    assert len(provider.requests) == asked


@pytest.mark.parametrize("actor", OTHERS)
@guarded_rows
def test_no_answer_to_others_names_what_alice_owns(
    row: Row, actor: str, cast: Cast, owned: dict[str, Any]
) -> None:
    response = cast[actor].request(**row.request(owned))

    assert "Alice" not in response.text
    for thing in owned.values():
        assert str(thing) not in response.text


@pytest.mark.parametrize("actor", ACTORS)
@all_sockets
def test_a_socket_opens_for_its_owner_alone(
    path: str, actor: str, cast: Cast, owned: dict[str, Any]
) -> None:
    befall(actor)
    before = stored()

    _, code = told_by_socket(cast[actor], path.format(**owned))

    assert code == (4401 if actor in NOBODY else 4404 if actor in OTHERS else 0)
    assert stored() == before


@pytest.mark.parametrize("actor", OTHERS)
@all_sockets
def test_someone_elses_socket_is_closed_like_one_that_is_not_there(
    path: str, actor: str, cast: Cast, owned: dict[str, Any]
) -> None:
    foreign = told_by_socket(cast[actor], path.format(**owned))
    unknown = told_by_socket(cast[actor], path.format(**UNKNOWN))

    assert foreign == unknown


@keyed_rows
def test_a_key_of_just_the_scopes_that_are_needed_is_enough(
    row: Row, server: Served, alice: User, owned: dict[str, Any]
) -> None:
    with client_with(server, make_key(alice, *row.scopes)[1]) as client:
        response = client.request(**row.request(owned))

    assert response.status_code == row.status, response.text


@guarded_rows
def test_a_key_of_all_scopes_but_a_needed_one_changes_nothing(
    row: Row, server: Served, alice: User, owned: dict[str, Any]
) -> None:
    lacks = {LOG_IN: "An API key is not enough for this; log in."}
    for scope in SCOPES:
        lacks[scope] = f"This API key does not have the scope “{scope}”."
    for needed in row.scopes:
        key, text = make_key(alice, *(s for s in SCOPES if s != needed))
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now())
        before = stored()
        with client_with(server, text) as client:
            response = client.request(**row.request(owned))

        assert response.status_code == 403
        assert response.json()["code"] == "forbidden"
        assert response.json()["error"] == lacks[needed]
        assert stored() == before
