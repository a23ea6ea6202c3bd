"""/ws/chat/<conversation_id>: one socket for one conversation."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import connection as sql, transaction
from websockets.exceptions import ConnectionClosed

from accounts.models import RevokedToken, User
from accounts.tokens import TokenClaims, claims_of, issue
from chat.connections import LOOK_EVERY, SIGN_IN_SECONDS
from conversations.models import Message
from tests.chat.eventually import eventually, on_loop
from tests.chat.sockets import opened, path_of, socket_of, token_of
from tests.chat.streams import Event, text_of, up_to
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import FakeProvider, Script

PIECES = ["Hel", "lo ", "😀 "] + [f"e\u0301{n} " for n in range(20)]
WHOLE = "".join(PIECES)
NOBODY = 4711


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server logged as an error; the client may complain of its own end."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name != "websockets.client"
    ]


@contextmanager
def left_nothing(served: Served) -> Iterator[None]:
    """Whatever happens inside, no task and no connection is left of it."""
    connections = served.application.answers.connections
    assert eventually(lambda: not len(connections))
    before = on_loop(served, sockets_tasks())
    yield
    assert eventually(lambda: on_loop(served, sockets_tasks()) <= before)
    assert eventually(lambda: not len(connections))


async def sockets_tasks() -> int:
    """How many tasks of WebSockets there are, of the project's or the server's."""
    coroutines = [str(task.get_coro()) for task in asyncio.all_tasks()]
    return sum("ocket" in coroutine for coroutine in coroutines)


def look(served: Served) -> None:
    """What the server does every so often: end the streams of ended tokens."""
    on_loop(served, served.application.answers.connections.end_the_ended())


# Where there is no such table, SQLite fails; PostgreSQL calls that a mistake of ours.
FAILING = """
    CREATE FUNCTION failing() RETURNS SETOF out_of_order LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = 'cannot_connect_now'; END $$;
    CREATE VIEW {} AS SELECT * FROM failing();
"""


@contextmanager
def unreadable(table: str) -> Iterator[None]:
    """Whoever reads `table` meanwhile is told that the database fails."""
    on_postgresql = sql.vendor == "postgresql"
    with sql.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO out_of_order")
        if on_postgresql:
            cursor.execute(FAILING.format(table))
    try:
        yield
    finally:
        with sql.cursor() as cursor:
            if on_postgresql:
                cursor.execute("DROP FUNCTION failing CASCADE")
            cursor.execute(f"ALTER TABLE out_of_order RENAME TO {table}")


class TestSigningIn:
    def test_by_subprotocol(self, as_alice: Client, conversation: int) -> None:
        with opened(
            as_alice, path_of(conversation), "bearer", token_of(as_alice)
        ) as made:
            ready = Event("ready", {"conversation_id": conversation}, "")

            assert made.event() == ready
            assert made.connection.subprotocol == "bearer"

    def test_by_a_first_frame(self, as_alice: Client, conversation: int) -> None:
        with opened(as_alice, path_of(conversation)) as made:
            made.send("auth", token=token_of(as_alice))

            assert made.event().name == "ready"
            assert made.connection.subprotocol is None

    def test_who_says_nothing_is_sent_away(
        self, as_alice: Client, conversation: int, hurried: None
    ) -> None:
        with opened(as_alice, path_of(conversation)) as made:
            [told], code = made.last_words()

        assert (told.data["code"], code) == ("unauthorized", 4401)

    def test_who_signed_in_may_be_silent(
        self, as_alice: Client, conversation: int, served: Served, hurried: None
    ) -> None:
        with socket_of(as_alice, conversation) as alices:
            with opened(as_alice, path_of(conversation)) as other:
                other.last_words()
            alices.send("stop")
            assert alices.event().name == "idle"

    @pytest.fixture
    def hurried(self, served: Served) -> Iterator[None]:
        connections = served.application.answers.connections
        assert connections.sign_in_seconds == SIGN_IN_SECONDS == 5.0
        connections.sign_in_seconds = 0.1
        yield
        connections.sign_in_seconds = SIGN_IN_SECONDS

    @pytest.mark.parametrize("name", ["token", "access_token", "ticket", "bearer"])
    def test_a_token_in_the_address_is_none(
        self, as_alice: Client, conversation: int, name: str
    ) -> None:
        path = f"{path_of(conversation)}?{name}={token_of(as_alice)}"
        with opened(as_alice, path) as made:
            made.send("stop")

            assert made.last_words()[1] == 4401

    def test_a_ticket_is_no_token(self, as_alice: Client, conversation: int) -> None:
        response = as_alice.post(f"/api/chat/{conversation}/ticket")
        with opened(as_alice, path_of(conversation)) as made:
            made.send("auth", token=response.json()["ticket"])

            assert made.last_words()[1] == 4401

    @pytest.mark.parametrize("token", ["x", "", None, 1, ["x"], {"token": "x"}])
    def test_a_wrong_token_in_a_frame(
        self, as_alice: Client, conversation: int, token: Any
    ) -> None:
        with opened(as_alice, path_of(conversation)) as made:
            made.send("auth", token=token)
            [told], code = made.last_words()

        assert (told.data["code"], code) == ("unauthorized", 4401)

    def test_a_wrong_token_as_subprotocol(
        self, as_alice: Client, conversation: int
    ) -> None:
        with opened(as_alice, path_of(conversation), "bearer", "x.y.z") as made:
            assert made.last_words()[1] == 4401

    def test_commands_before_it_are_refused_once(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with opened(as_alice, path_of(conversation)) as made:
            with suppress(ConnectionClosed):  # The server need not wait for all.
                for _ in range(20):
                    made.send("message", message="Hi")
            frames, code = made.last_words()

        assert (len(frames), code) == (1, 4401)
        assert not errors_in(caplog)
        assert not provider.requests
        assert as_alice.history(conversation) == []

    def test_a_frame_that_is_none_costs_no_sign_in(
        self, as_alice: Client, conversation: int
    ) -> None:
        with opened(as_alice, path_of(conversation)) as made:
            made.connection.send("{")
            assert made.event().data["code"] == "invalid"
            made.send("auth", token=token_of(as_alice))
            assert made.event().name == "ready"

    @pytest.mark.parametrize("name", [NOBODY, "x", "9" * 30, "-1", "1.5"])
    def test_no_such_conversation(self, as_alice: Client, name: Any) -> None:
        with opened(as_alice, path_of(name), "bearer", token_of(as_alice)) as made:
            [told], code = made.last_words()

        assert (told.data["code"], code) == ("not_found", 4404)

    def test_a_database_that_fails_sends_away_for_now(
        self, as_alice: Client, conversation: int
    ) -> None:
        with (
            unreadable(RevokedToken._meta.db_table),
            opened(
                as_alice, path_of(conversation), "bearer", token_of(as_alice)
            ) as made,
        ):
            [told], code = made.last_words()

        assert (told.data["code"], code) == ("database_unavailable", 1013)

    def test_a_fresh_token_takes_the_place_of_the_old(
        self, as_alice: Client, alice: User, conversation: int, served: Served
    ) -> None:
        claims = claims_of(token_of(as_alice))
        assert isinstance(claims, TokenClaims)
        with socket_of(as_alice, conversation) as alices:
            alices.send("auth", token=issue(alice))
            assert alices.event().name == "ready"
            RevokedToken.objects.create(jti=claims.jti, expires_at="2100-01-01T00:00Z")
            look(served)

            alices.send("stop")
            assert alices.event().name == "idle"

    def test_a_wrong_one_does_not(self, as_alice: Client, conversation: int) -> None:
        with socket_of(as_alice, conversation) as alices:
            alices.send("auth", token="x")

            assert alices.last_words()[1] == 4401


WRONG: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("Hi", "invalid"),
    "half an object": ('{"type":"message"', "invalid"),
    "a list": ('["message"]', "invalid"),
    "nested beyond reason": ("[" * 100_000, "invalid"),
    "no type": ('{"message":"Hi"}', "invalid"),
    "an unknown type": ('{"type":"shout"}', "invalid"),
    "a type of another kind": ('{"type":["message"]}', "invalid"),
    "no message": ('{"type":"message"}', "invalid"),
    "a blank message": ('{"type":"message","message":" "}', "invalid"),
    "a base that is none": ('{"type":"message","message":"a","kb_id":1}', "invalid"),
    "a base that is not there": (
        json.dumps({"type": "message", "message": "a", "kb_id": "0" * 32}),
        "not_found",
    ),
    "an edit of nothing": ('{"type":"edit","message":"Hi"}', "invalid"),
    "an unknown message": ('{"type":"stop","message_id":9}', "not_found"),
    "nothing to regenerate": ('{"type":"regenerate"}', "not_active"),
    "a binary frame": (b'{"type":"stop"}', "invalid"),
    "a large frame": ('{"type":"stop","x":"%s"}' % ("长" * 90_000), "too_large"),
}


@pytest.mark.parametrize(("frame", "code"), WRONG.values(), ids=list(WRONG))
def test_a_mistake_is_told_and_the_socket_stays(
    as_alice: Client,
    conversation: int,
    provider: FakeProvider,
    frame: str | bytes,
    code: str,
) -> None:
    with socket_of(as_alice, conversation) as alices:
        alices.connection.send(frame)
        refused = alices.event()

        assert (refused.name, refused.data["code"]) == ("error", code)
        assert set(refused.data) == {"error", "code", "request_id"}
        assert not provider.requests
        alices.send("message", message="Hi")
        assert text_of(alices.events()) == "Hello!"


FLOODS: dict[str, dict[str, Any]] = {
    "messages": {"type": "message", "message": "Hi"},
    "one message": {"type": "message", "message": "Hi", "idempotency_key": "k-1"},
    "resumes": {"type": "resume"},
    "stops": {"type": "stop"},
    "nonsense": {"type": "shout"},
    "sign-ins": {"type": "auth"},
}


class TestLeaving:
    def test_the_answer_is_written_to_its_end(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        served: Served,
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with left_nothing(served), socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            up_to(alices.events(), "Hello ")
            alices.vanish()
        held.release.set()
        until_idle(served)

        assert as_alice.history(conversation)[-1]["content"] == WHOLE

    @pytest.mark.parametrize("command", FLOODS.values(), ids=list(FLOODS))
    def test_a_flood_leaves_nothing_behind(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        served: Served,
        caplog: pytest.LogCaptureFixture,
        command: dict[str, Any],
    ) -> None:
        provider.default = Script(pieces=PIECES, stall_after=2)
        frame = json.dumps({**command, "token": token_of(as_alice)})
        with left_nothing(served), socket_of(as_alice, conversation) as alices:
            if command["type"] == "resume":
                alices.send("message", message="Hi")
            for _ in range(300):
                alices.connection.send(frame)
            alices.vanish()
        provider.release_all()
        until_idle(served)

        assert not errors_in(caplog)
        assert Message.objects.filter(status="streaming").count() == 0

    def test_nor_does_who_leaves_in_the_middle_of_a_command(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        served: Served,
    ) -> None:
        with (
            left_nothing(served),
            socket_of(as_alice, conversation) as alices,
            transaction.atomic(),  # Nobody else can write now.
        ):
            alices.send("message", message="Hi")
            assert eventually(lambda: served.application.answers.busy)
            alices.vanish()
        until_idle(served)

        assert as_alice.history(conversation)[-1]["content"] == "Hello!"


class TestEndedTokens:
    @pytest.mark.parametrize(
        "befallen", [{"token_version": 1}, {"is_active": False}], ids=lambda b: str(b)
    )
    @pytest.mark.parametrize("reading", [False, True])
    def test_the_socket_is_lost(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        served: Served,
        befallen: dict[str, Any],
        reading: bool,
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with (
            left_nothing(served),
            socket_of(as_alice, conversation) as alices,
        ):
            if reading:
                alices.send("message", message="Hi")
                up_to(alices.events(), "Hello ")
            alices.send("nothing")
            refused = alices.event()
            User.objects.filter(username="alice").update(**befallen)
            look(served)
            [told], code = alices.last_words()

        assert (told.name, told.data["code"]) == ("error", "unauthorized")
        assert told.data["request_id"] == refused.data["request_id"]
        assert code == 4401
        held.release.set()
        until_idle(served)
        if reading:
            assert Message.objects.get(number=2).content == WHOLE

    def test_no_command_is_carried_out_before_that_is_noticed(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        with socket_of(as_alice, conversation) as alices:
            User.objects.filter(username="alice").update(token_version=1)
            alices.send("message", message="Hi")

            assert alices.last_words()[1] == 4401
        assert not provider.requests

    def test_it_is_noticed_within_a_minute(self, served: Served) -> None:
        assert served.application.answers.connections.look_every == LOOK_EVERY
        # One look may be under way while the token is ended; the next one sees it.
        assert 2 * LOOK_EVERY < 60
