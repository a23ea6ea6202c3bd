"""GET /api/chat/<conversation_id>/stream: reading an answer from any place."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from django.core import signing
from django.db.models.functions import Now

from accounts.models import User
from conversations.models import Message, Writer
from conversations.writers import beat
from tests.chat.eventually import eventually, on_loop
from tests.chat.sockets import socket_of
from tests.chat.streams import SSE, Event, events_in, events_of, text_of
from tests.conftest import Client, Served, client_of, until_idle
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE

PIECES = ["Hel", "lo ", "😀 "] + [f"e\u0301{n} " for n in range(20)]
WHOLE = "".join(PIECES)


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


def stream(conversation: int) -> str:
    return f"/api/chat/{conversation}/stream"


@contextmanager
def held_answer(
    client: Client, conversation: int, provider: FakeProvider, **script: Any
) -> Iterator[tuple[Script, Iterator[Event]]]:
    """An answer that has said its first pieces and waits; and its asker's events."""
    held = Script(**{"pieces": PIECES, "stall_after": 2, **script})
    provider.enqueue(held)
    path = f"/api/chat/{conversation}"
    with client.stream("POST", path, json={"message": "Hi"}, headers=SSE) as response:
        events = events_in(response.iter_lines())
        next(events)
        assert held.reached.wait(PATIENCE)
        yield held, events
        held.release.set()


class TestWhileItIsWritten:
    def test_a_second_reader_gets_it_from_its_start(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        with (
            held_answer(as_alice, conversation, provider) as (held, asker),
            as_alice.stream("GET", stream(conversation), headers=SSE) as response,
        ):
            events = events_in(response.iter_lines())
            first = [next(events), next(events)]
            held.release.set()
            rest = list(events)

            assert text_of([*first, *rest]) == text_of(asker) == WHOLE
            assert first[0].name == "started"
            assert rest[-1].name == "done"

    def test_it_goes_on_after_the_id_of_an_event(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        with held_answer(as_alice, conversation, provider) as (held, asker):
            seen = next(asker)
            held.release.set()

            rest = as_alice.get(
                stream(conversation), headers={**SSE, "Last-Event-ID": seen.id}
            )

        assert seen.data + text_of(events_of(rest.text)) == WHOLE
        started = events_of(rest.text)[0]
        assert started.data["text_offset"] == len(seen.data)

    def test_without_an_answer_there_is_nothing_to_read(
        self, as_alice: Client, conversation: int
    ) -> None:
        assert as_alice.get(stream(conversation), headers=SSE).status_code == 204

    def test_lines_can_be_read_too(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        path = stream(conversation) + "?format=seed"
        with (
            held_answer(as_alice, conversation, provider) as (held, _),
            as_alice.stream("GET", path) as response,
        ):
            held.release.set()
            lines = response.read().decode()

        assert lines.endswith(f'{{"event":"full_response", "data":"{WHOLE}"}}\n\n')


class TestAfterItsEnd:
    @pytest.fixture
    def told(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> list[Event]:
        provider.default = Script(pieces=PIECES, reasoning=["Hm ", "想"])
        return events_of(as_alice.ask(conversation, "Hi", headers=SSE).text)

    def test_every_id_leads_to_the_rest_and_the_end(
        self, as_alice: Client, conversation: int, told: list[Event]
    ) -> None:
        before = ""
        for event in told[:-1]:
            if event.name == "message":
                before += event.data
            if event.id:
                headers = {**SSE, "Last-Event-ID": event.id}
                rest = events_of(
                    as_alice.get(stream(conversation), headers=headers).text
                )
                assert before + text_of(rest) == WHOLE
                assert rest[-1] == told[-1]

    def test_the_end_leads_to_a_204(
        self, as_alice: Client, conversation: int, told: list[Event]
    ) -> None:
        assert told[-1].id.endswith("-end")
        path = stream(conversation)

        by_header = as_alice.get(path, headers={"Last-Event-ID": told[-1].id})
        by_query = as_alice.get(f"{path}?last_event_id={told[-1].id}")

        assert by_header.status_code == by_query.status_code == 204
        assert by_header.text == ""

    def test_the_header_counts_more_than_the_parameter(
        self, as_alice: Client, conversation: int, told: list[Event]
    ) -> None:
        path = f"{stream(conversation)}?last_event_id=2-0-0"

        response = as_alice.get(path, headers={"Last-Event-ID": told[-1].id})

        assert response.status_code == 204

    def test_who_has_more_than_is_stored_is_told_where_to_cut(
        self, as_alice: Client, conversation: int, told: list[Event]
    ) -> None:
        headers = {**SSE, "Last-Event-ID": f"2-9999-{len(WHOLE) + 50}"}

        events = events_of(as_alice.get(stream(conversation), headers=headers).text)

        assert events[0].data["text_offset"] == len(WHOLE)
        assert [event.name for event in events] == ["started", "usage", "done"]

    def test_a_post_that_comes_back_asks_nothing(
        self,
        as_alice: Client,
        conversation: int,
        told: list[Event],
        provider: FakeProvider,
    ) -> None:
        asked = len(provider.requests)

        again = as_alice.ask(
            conversation, "Hi", headers={**SSE, "Last-Event-ID": "2-0-3"}
        )
        over = as_alice.ask(
            conversation, "Hi", headers={**SSE, "Last-Event-ID": told[-1].id}
        )

        assert text_of(events_of(again.text)) == WHOLE[3:]
        assert over.status_code == 204
        assert len(provider.requests) == asked
        assert len(as_alice.history(conversation)) == 2

    @pytest.mark.parametrize(
        "wrong", ["x", "2", "2-1", "2-0-0-enD", "-1-0-0", "2-0-0 "]
    )
    def test_what_is_no_id_is_refused(
        self, as_alice: Client, conversation: int, told: list[Event], wrong: str
    ) -> None:
        response = as_alice.get(f"{stream(conversation)}?last_event_id={wrong}")

        assert response.status_code == 400

    def test_an_unknown_message_is_a_404(
        self, as_alice: Client, conversation: int, told: list[Event]
    ) -> None:
        for number in (1, 3):
            headers = {"Last-Event-ID": f"{number}-0-0"}
            response = as_alice.get(stream(conversation), headers=headers)
            assert response.status_code == 404


def outlives_this_test(writer: uuid.UUID) -> None:
    """However long that takes: the server ends what a writer left that is silent."""
    Writer.objects.filter(pk=writer).update(heartbeat_at=Now() + timedelta(minutes=1))


class TestFromAnotherProcess:
    """A row that a living writer of another process holds."""

    @pytest.fixture
    def row(self, as_alice: Client, conversation: int) -> Message:
        from conversations.asked import Question
        from conversations.turns import open_turn

        self.writer = uuid.uuid4()
        opened = open_turn(
            user=User.objects.get(username="alice"),
            conversation_id=conversation,
            asked=Question("Hi"),
            writer=self.writer,
        )
        assert not isinstance(opened, str)
        outlives_this_test(self.writer)
        return Message.objects.get(pk=opened.rows.answer.pk)

    def test_it_is_read_as_the_database_has_it(
        self, as_alice: Client, conversation: int, row: Message
    ) -> None:
        mine = Message.objects.filter(pk=row.pk)
        with as_alice.stream("GET", stream(conversation), headers=SSE) as response:
            events = events_in(response.iter_lines())
            next(events)
            mine.update(content="Hel", reasoning="Hm")
            told = [next(events), next(events)]
            mine.update(content="Hello", status="complete", finish_reason="stop")
            told += list(events)

        assert text_of(told) == "Hello"
        assert told[-1].name == "done"

    @pytest.mark.parametrize(
        ("content", "status", "offset"),
        [("Hello there", "complete", 5), ("Hel", "interrupted", 3)],
    )
    def test_who_has_seen_more_than_it_has_waits_for_the_rest(
        self,
        as_alice: Client,
        conversation: int,
        row: Message,
        served: Served,
        content: str,
        status: str,
        offset: int,
    ) -> None:
        mine = Message.objects.filter(pk=row.pk)
        mine.update(content="Hel")
        headers = {**SSE, "Last-Event-ID": "2-0-5"}
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(as_alice.get, stream(conversation), headers=headers)
            assert eventually(lambda: row.pk in followed(served))
            mine.update(content=content, status=status)
            events = events_of(coming.result().text)

        assert events[0].data["text_offset"] == offset
        assert text_of(events) == content[5:]

    def test_a_reader_of_a_dead_writers_answer_gets_an_end(
        self, as_alice: Client, conversation: int, row: Message
    ) -> None:
        Message.objects.filter(pk=row.pk).update(content="Hel", writer=None)

        events = events_of(as_alice.get(stream(conversation), headers=SSE).text)

        assert text_of(events) == "Hel"
        assert events[-1].data["code"] == "interrupted"
        assert as_alice.history(conversation)[-1]["status"] == "interrupted"

    def test_it_ends_when_the_conversation_is_deleted(
        self, as_alice: Client, conversation: int, row: Message
    ) -> None:
        with as_alice.stream("GET", stream(conversation), headers=SSE) as response:
            events = events_in(response.iter_lines())
            next(events)
            as_alice.post(f"/api/conversations/del/{conversation}")
            last = list(events)[-1].data
        assert (last["code"], last["retryable"]) == ("not_found", False)
        assert last["error"] == "This conversation has been deleted."

    def test_its_readers_are_sent_to_come_back_when_another_goes_on_with_it(
        self, as_alice: Client, conversation: int, row: Message
    ) -> None:
        other = uuid.uuid4()
        beat(other)
        outlives_this_test(other)
        with (
            as_alice.stream("GET", stream(conversation), headers=SSE) as response,
            socket_of(as_alice, conversation) as socket,
        ):
            socket.send("resume")
            events = events_in(response.iter_lines())
            assert next(events).name == socket.event().name == "started"

            Message.objects.filter(pk=row.pk).update(writer=other)

            assert list(events) == []
            assert socket.last_words() == ([], 1012)

    def test_stop_marks_the_row_for_its_writer(
        self, as_alice: Client, conversation: int, row: Message
    ) -> None:
        beat(self.writer)

        response = as_alice.post(f"/api/chat/{conversation}/stop")

        assert response.json()["message_id"] == 2
        row.refresh_from_db()
        assert (row.stop_requested, row.status) == (True, "streaming")


class TestTickets:
    @pytest.fixture
    def ticket(self, as_alice: Client, conversation: int, provider: Any) -> str:
        provider.default = Script(pieces=PIECES)
        as_alice.ask(conversation, "Hi")
        response = as_alice.post(f"/api/chat/{conversation}/ticket")
        assert response.json()["expires_in"] == 900
        assert response.headers["Cache-Control"] == "no-store"
        return str(response.json()["ticket"])

    def test_it_opens_the_stream(
        self, anonymous: Client, conversation: int, ticket: str
    ) -> None:
        path = f"{stream(conversation)}?last_event_id=2-0-0&ticket={ticket}"

        assert text_of(events_of(anonymous.get(path, headers=SSE).text)) == WHOLE

    def test_it_opens_no_other(
        self, as_alice: Client, anonymous: Client, ticket: str
    ) -> None:
        other = as_alice.conversation()

        assert anonymous.get(f"{stream(other)}?ticket={ticket}").status_code == 401

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/api/conversations/history/{}"),
            ("POST", "/api/chat/{}"),
            ("POST", "/api/chat/{}/stop"),
            ("POST", "/api/chat/{}/ticket"),
        ],
    )
    def test_no_other_route_takes_it(
        self,
        anonymous: Client,
        conversation: int,
        ticket: str,
        method: str,
        path: str,
    ) -> None:
        url = f"{path.format(conversation)}?ticket={ticket}"
        bearer = {"Authorization": f"Bearer {ticket}"}

        assert anonymous.request(method, url, json={}).status_code == 401
        assert anonymous.request(method, url, headers=bearer).status_code == 401

    def test_log_out_everywhere_ends_it(
        self, anonymous: Client, conversation: int, ticket: str
    ) -> None:
        User.objects.filter(username="alice").update(token_version=1)

        response = anonymous.get(f"{stream(conversation)}?ticket={ticket}")

        assert response.status_code == 401

    def test_it_expires(
        self, anonymous: Client, conversation: int, ticket: str
    ) -> None:
        said = signing.loads(ticket, salt="chat.ticket")
        signer = signing.TimestampSigner(salt="chat.ticket")
        plain = signer.unsign(ticket)
        old = signing.b62_encode(int(time.time()) - 901)
        late = signing.Signer(salt="chat.ticket").sign(f"{plain}:{old}")
        assert signing.loads(late, salt="chat.ticket") == said

        response = anonymous.get(f"{stream(conversation)}?ticket={late}")

        assert response.status_code == 401

    def test_it_ends_when_the_token_does_that_it_was_made_with(
        self, anonymous: Client, conversation: int, ticket: str
    ) -> None:
        said = signing.loads(ticket, salt="chat.ticket")
        said["claims"]["expires_at"] = time.time() - 1
        late = signing.dumps(said, salt="chat.ticket")

        response = anonymous.get(f"{stream(conversation)}?ticket={late}")

        assert response.status_code == 401

    def test_it_is_in_no_log(
        self,
        anonymous: Client,
        conversation: int,
        ticket: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            anonymous.get(f"{stream(conversation)}?ticket={ticket}")

            assert eventually(lambda: stream(conversation) in caplog.text)
        assert ticket not in caplog.text


def test_readers_of_one_format_at_one_place_share_an_encoded_frame() -> None:
    from chat.encoders import ENCODERS
    from chat.events import Cursor, Opening
    from chat.live import LiveAnswer

    opening = Opening(
        conversation_id=7, question_id=1, message_id=2, model="m", provider="p"
    )
    answer = LiveAnswer(pk=2, opening=opening)
    answer.grow(text="Hello", reasoning="")

    frames = [answer.frame(Cursor(), encode=ENCODERS["sse"].growth) for _ in range(9)]

    assert all(frame is frames[0] for frame in frames)


def test_a_reader_loses_the_stream_when_its_user_is_logged_out_everywhere(
    as_alice: Client, conversation: int, provider: FakeProvider, served: Served
) -> None:
    connections = served.application.answers.connections
    with held_answer(as_alice, conversation, provider) as (held, asker):
        next(asker)
        User.objects.filter(username="alice").update(token_version=1)
        on_loop(served, connections.end_the_ended())

        last = list(asker)[-1]

        assert (last.name, last.data["code"]) == ("error", "unauthorized")
        held.release.set()
    until_idle(served)
    assert Message.objects.get(number=2).content == WHOLE


def test_a_slow_reader_is_told_so_however_often_its_sign_in_is_found_ended(
    as_alice: Client, conversation: int, provider: FakeProvider, served: Served
) -> None:
    connections = served.application.answers.connections
    as_alice.post(f"/api/chat/{conversation}", json={"message": "Hi"})
    until_idle(served)
    # More than the system takes for a client that reads nothing.
    Message.objects.filter(number=2).update(content="x" * (16 << 20))
    url, token = httpx2.URL(served.base_url), as_alice.headers["Authorization"]
    with closing(socket.create_connection((url.host, url.port), PATIENCE)) as slow:
        slow.sendall(
            f"GET {stream(conversation)}?last_event_id=2-0-0 HTTP/1.1\r\n"
            f"Host: {url.host}\r\nAuthorization: {token}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        assert slow.recv(64).startswith(b"HTTP/1.1 200")
        User.objects.filter(username="alice").update(token_version=1)
        on_loop(served, connections.end_the_ended())
        on_loop(served, connections.end_the_ended())

        told = b"".join(iter(lambda: slow.recv(1 << 20), b""))

    assert told.endswith(b"\n\n\r\n0\r\n\r\n")
    assert b"This sign-in has ended." in told[-200:]


def followed(served: Served) -> set[int]:
    """The answers of other processes that are read along with."""
    return {copy.pk for copy in served.application.answers._followed.copies()}


def test_many_readers_end_together(
    server: Served, alice: Any, as_alice: Client, conversation: int, provider: Any
) -> None:
    def read() -> str:
        with client_of(server, alice) as client:
            return client.get(stream(conversation), headers=SSE).text

    connections = server.application.answers.connections
    with (
        held_answer(as_alice, conversation, provider) as (held, _),
        ThreadPoolExecutor(10) as pool,
    ):
        reading = [pool.submit(read) for _ in range(10)]
        assert eventually(lambda: len(connections) == 11)
        held.release.set()
        told = [events_of(each.result()) for each in reading]

    assert {text_of(events) for events in told} == {WHOLE}
    assert all(events[-1].name == "done" for events in told)
