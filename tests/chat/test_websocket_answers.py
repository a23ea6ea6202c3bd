"""/ws/chat/<conversation_id>: questions asked and answers read over a socket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chat.sockets import socket_of
from tests.chat.streams import Event, text_of, up_to
from tests.conftest import Client
from tests.fake_provider import FakeProvider, Script, refusal
from tests.rag.embeddings import STATUTE, added, make_base

PIECES = ["Hel", "lo ", "😀 "] + [f"e\u0301{n} " for n in range(20)]
WHOLE = "".join(PIECES)


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


def names(events: list[Event]) -> list[str]:
    """What kinds of events, in a row."""
    return [
        e.name for n, e in enumerate(events) if not n or events[n - 1].name != e.name
    ]


class TestAnswers:
    def test_a_message_is_answered_by_the_events_of_a_stream(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=PIECES, reasoning=["Hm ", "想"]))
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            told = list(alices.events())

        assert names(told) == ["started", "reasoning", "message", "usage", "done"]
        assert told[0].data["message_id"] == told[-1].data["message_id"] == 2
        assert text_of(told) == WHOLE
        assert told[-1].id == f"2-4-{len(WHOLE)}-end"
        assert told[-1].data["status"] == "complete"
        grown = [e for e in told if e.name in {"reasoning", "message"}]
        assert all(e.id for e in grown)
        assert as_alice.history(conversation)[-1]["content"] == WHOLE

    def test_one_after_another(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        with socket_of(as_alice, conversation) as alices:
            for number in range(1, 4):
                alices.send("message", message=f"{number}?")
                told = list(alices.events())
                assert told[0].data["question_id"] == 2 * number - 1
                assert text_of(told) == "Hello!"

    def test_with_a_base_it_is_grounded(
        self, as_alice: Client, conversation: int
    ) -> None:
        base = make_base(as_alice)
        added(as_alice, base, STATUTE)
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="租赁期限最长几年?", kb_id=base, top_k=1)
            told = list(alices.events())

        assert names(told)[:3] == ["started", "sources", "message"]
        [source] = told[1].data
        assert source["kb_id"] == base
        assert as_alice.history(conversation)[-1]["sources"] == [source]

    def test_a_providers_failure_is_an_end(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(refusal(400))
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            failed = list(alices.events())
            alices.send("regenerate")
            again = list(alices.events())

        assert names(failed) == ["started", "error"]
        assert failed[-1].data["status"] == "failed"
        assert failed[-1].data["code"] == "provider_error"
        assert again[-1].data["status"] == "complete"

    def test_two_questions_at_once_are_one_too_many(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            events = alices.events()
            told = up_to(events, "Hello ")
            alices.send("message", message="And?")
            refused = next(events)
            held.release.set()
            rest = list(alices.events())

            assert refused.name == "error"
            assert refused.data["code"] == "answer_in_progress"
            assert "status" not in refused.data
            assert text_of([*told, *rest]) == WHOLE
            alices.send("message", message="And?")
            assert text_of(alices.events()) == "Hello!"

    def test_what_is_asked_over_http_is_told_to_who_resumes(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        path = f"/api/chat/{conversation}"
        with (
            as_alice.stream("POST", path, json={"message": "Hi"}),
            socket_of(as_alice, conversation) as one,
            socket_of(as_alice, conversation) as other,
        ):
            for each in (one, other):
                each.send("resume")
                assert each.event().name == "started"
            held.release.set()
            assert text_of(one.events()) == text_of(other.events()) == WHOLE

    def test_continue_regenerate_edit(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(
            Script(pieces=["Hello"], finish_reason="length"),
            Script(pieces=[" there"]),
            Script(pieces=["Good day"]),
            Script(pieces=["Hola"]),
        )
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            list(alices.events())
            alices.send("continue")
            continued = list(alices.events())
            first = as_alice.history(conversation)
            alices.send("regenerate", message_id=2)
            regenerated = list(alices.events())
            alices.send("edit", message_id=1, message="Salud")
            edited = list(alices.events())

        assert continued[0].data["text_offset"] == 5
        assert [m["content"] for m in first] == ["Hi", "Hello there"]
        assert regenerated[0].data["message_id"] == 3
        assert text_of(edited) == "Hola"
        last = as_alice.history(conversation)
        assert [m["content"] for m in last] == ["Salud", "Hola"]


class TestStop:
    def test_the_answer_ends_and_its_text_is_kept(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=PIECES, stall_after=2))
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            events = alices.events()
            up_to(events, "Hello ")
            alices.send("stop", message_id=2)
            end = list(events)[-1]

        assert (end.name, end.data["status"]) == ("done", "stopped")
        assert as_alice.history(conversation)[-1]["content"] == "Hello "
        assert provider.wait_until(lambda: provider.answering == 0, 1.0)

    def test_a_late_one_spares_a_newer_answer(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(Script(), held)
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            list(alices.events())
            alices.send("message", message="And?")
            events = alices.events()
            up_to(events, "Hello ")
            alices.send("stop", message_id=2)
            assert next(events).name == "idle"
            held.release.set()
            assert list(alices.events())[-1].data["status"] == "complete"

    def test_of_nothing_is_idle(self, as_alice: Client, conversation: int) -> None:
        with socket_of(as_alice, conversation) as alices:
            alices.send("stop")
            assert alices.event() == Event(
                "idle", {"conversation_id": conversation}, ""
            )


class TestResume:
    def test_goes_on_after_an_event_on_the_same_socket(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            events = alices.events()
            up_to(events, "Hello ")
            alices.send("resume", last_event_id="2-0-3")
            started = next(events)
            held.release.set()
            rest = list(events)

        assert (started.name, started.data["text_offset"]) == ("started", 3)
        assert text_of(rest) == WHOLE[3:]
        assert names(rest) == ["message", "usage", "done"]

    def test_goes_on_where_another_socket_broke_off(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with socket_of(as_alice, conversation) as first:
            first.send("message", message="Hi")
            seen = up_to(first.events(), "Hello ")
            first.vanish()
        with socket_of(as_alice, conversation) as second:
            second.send("resume", last_event_id=seen[-1].id)
            held.release.set()
            rest = list(second.events())

        assert text_of([*seen, *rest]) == WHOLE
        assert len(provider.requests) == 1

    def test_from_every_event_of_a_finished_answer(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=PIECES, reasoning=["Hm ", "想"]))
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            told = list(alices.events())
            for number, event in enumerate(told[:-1]):
                if event.id:
                    alices.send("resume", last_event_id=event.id)
                    rest = list(alices.events())
                    assert text_of([*told[: number + 1], *rest]) == WHOLE
                    assert rest[-1] == told[-1]
            alices.send("resume", last_event_id=told[-1].id)
            assert [event.name for event in alices.events()] == ["idle"]

    def test_without_an_id_it_begins_at_the_start_or_is_idle(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with socket_of(as_alice, conversation) as alices:
            alices.send("resume")
            assert alices.event().name == "idle"
            alices.send("message", message="Hi")
            events = alices.events()
            up_to(events, "Hello ")
            alices.send("resume", last_event_id="")
            assert next(events).name == "started"
            held.release.set()
            assert text_of(events) == WHOLE

    @pytest.mark.parametrize(
        ("last", "code"),
        [("2-0", "invalid"), (2, "invalid"), (None, "invalid"), ("9-0-0", "not_found")],
    )
    def test_what_is_no_place_is_refused(
        self, as_alice: Client, conversation: int, last: Any, code: str
    ) -> None:
        with socket_of(as_alice, conversation) as alices:
            alices.send("resume", last_event_id=last)
            assert alices.event().data["code"] == code
            alices.send("resume")
            assert alices.event().name == "idle"

    def test_stops_nothing_where_tokens_are_counted(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        settings: Any,
    ) -> None:
        chat = replace(settings.CONFIG.chat, on_disconnect="stop")
        settings.CONFIG = replace(settings.CONFIG, chat=chat)
        held = Script(pieces=PIECES, stall_after=2)
        provider.enqueue(held)
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi")
            up_to(alices.events(), "Hello ")
            for _ in range(3):
                alices.send("resume")
                up_to(alices.events(), "Hello ")
            held.release.set()
            end = list(alices.events())[-1]

        assert end.data["status"] == "complete"


class TestOnce:
    def test_the_same_key_is_the_same_answer(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=PIECES))
        told = []
        for _ in range(2):
            with socket_of(as_alice, conversation) as alices:
                alices.send("message", message="Hi", idempotency_key="k-1")
                told.append(list(alices.events()))

        assert text_of(told[0]) == text_of(told[1]) == WHOLE
        assert told[0][-1] == told[1][-1]
        assert len(provider.requests) == 1
        assert len(as_alice.history(conversation)) == 2

    def test_while_it_is_written_it_is_told_anew_and_can_be_stopped(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=PIECES, stall_after=2))
        with socket_of(as_alice, conversation) as alices:
            events = alices.events()
            for _ in range(3):
                alices.send("message", message="Hi", idempotency_key="k-1")
                assert next(events).name == "started"
                up_to(events, "Hello ")
            alices.send("stop")
            end = list(events)[-1]

        assert end.data["status"] == "stopped"
        assert len(provider.requests) == 1

    @pytest.mark.parametrize(
        ("key", "message", "code"),
        [
            ("k-1", "Ho", "idempotency_mismatch"),
            (1, "Hi", "invalid"),
            ("k" * 256, "Hi", "invalid"),
        ],
    )
    def test_another_message_under_it_is_refused(
        self, as_alice: Client, conversation: int, key: Any, message: str, code: str
    ) -> None:
        with socket_of(as_alice, conversation) as alices:
            alices.send("message", message="Hi", idempotency_key="k-1")
            list(alices.events())
            alices.send("message", message=message, idempotency_key=key)
            assert alices.event().data["code"] == code
