"""POST /api/chat/<conversation_id>, over real HTTP."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from conversations.models import Message
from tests.chat.eventually import eventually
from tests.conftest import Client, Served, until_idle
from tests.fake_provider import FakeProvider, Script, refusal

SSE = {"Accept": "text/event-stream"}
PAGE = Script(body=b"<html>", headers={"Content-Type": "text/html"})


def seed_events(text: str) -> list[dict[str, str]]:
    """The stream as a client of the seed reads it: a JSON object a line."""
    return [json.loads(line) for line in text.split("\n") if line]


def sse_events(text: str) -> list[tuple[str, Any, str]]:
    """(event, data, id) of a standard stream; comments and `retry` left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and line[0] != ":"]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            told = json.loads(fields["data"])
            assert told["event"] == fields["event"]
            events.append((told["event"], told["data"], fields.get("id", "")))
    return events


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


class TestSeedLines:
    def test_pieces_then_done_then_the_full_response(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = Script(pieces=["R", "ust", " 是一种"])

        response = as_alice.ask(conversation, "介绍一下RUST")

        assert response.status_code == 200
        events = seed_events(response.text)
        pieces = [e["data"] for e in events if e["event"] == "message"]
        assert "".join(pieces) == "Rust 是一种"
        assert [e["event"] for e in events][-2:] == ["done", "full_response"]
        assert events[-2]["data"] == "Stream finished"
        assert events[-1]["data"] == "Rust 是一种"
        assert [e["event"] for e in events].count("done") == 1

    def test_each_event_is_one_line_then_an_empty_one(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = Script(pieces=['He said "hi"\n', '{"event":"forged"}\n\n'])

        response = as_alice.ask(conversation, "Hi")

        lines = response.text.split("\n")
        assert lines[1::2] == [""] * len(lines[1::2])
        assert {e["event"] for e in seed_events(response.text)} == {
            "message",
            "done",
            "full_response",
        }
        assert seed_events(response.text)[-1]["data"].startswith('He said "hi"\n{"')

    def test_the_headers_keep_proxies_from_buffering(
        self, as_alice: Client, conversation: int
    ) -> None:
        headers = as_alice.ask(conversation, "Hi").headers

        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-cache"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Vary"] == "Accept"

    def test_reasoning_is_not_shown(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = Script(reasoning=["Hmm"], pieces=["Yes"])

        events = seed_events(as_alice.ask(conversation, "Hi").text)

        assert [e["data"] for e in events] == ["Yes", "Stream finished", "Yes"]


class TestStandardEvents:
    def test_it_opens_with_what_started_and_ends_with_how_it_ended(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = Script(reasoning=["Hmm"], pieces=["Yes"], usage=(7, 3))

        response = as_alice.ask(conversation, "Hi", headers=SSE)

        assert response.text.startswith("retry: 1000\nid: 2-0-0\n")
        events = sse_events(response.text)
        assert [name for name, _, _ in events] == [
            *["started", "reasoning", "message", "usage", "done"]
        ]
        assert events[0][1] == {
            "conversation_id": conversation,
            "question_id": 1,
            "message_id": 2,
            "model": "gpt-4o",
            "provider": "fake",
        }
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert events[-1][1] == {
            "status": "complete",
            "finish_reason": "stop",
            "usage": usage,
            "message_id": 2,
        }

    def test_ids_count_code_points_of_reasoning_and_text(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        script = Script(reasoning=["想"], pieces=["😀好"], stall_after=1)
        script.release.set()
        provider.default = script

        events = sse_events(as_alice.ask(conversation, "Hi", headers=SSE).text)

        ids = {name: event_id for name, _, event_id in events if event_id}
        assert ids["reasoning"] == "2-1-0"
        assert ids["message"] == "2-1-2"
        assert ids["done"] not in {ids["message"], ids["reasoning"]}

    def test_a_failure_after_the_first_token_ends_with_a_typed_error(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = Script(pieces=["Hel", "lo"], cut="fin", cut_after=2)

        events = sse_events(as_alice.ask(conversation, "Hi", headers=SSE).text)

        name, data, _ = events[-1]
        assert name == "error"
        assert data["status"] == "truncated"
        assert data["code"] == "truncated"
        assert data["retryable"] is True
        assert data["error"]


class TestFraming:
    @pytest.mark.parametrize(
        ("accept", "query", "standard"),
        [
            ("*/*", "", False),
            ("application/json", "", False),
            ("text/event-stream", "", True),
            ("application/json, Text/Event-Stream;q=0.9", "", True),
            ("*/*", "?format=sse", True),
            ("text/event-stream", "?format=seed", False),
        ],
    )
    def test_the_query_decides_then_the_accept_header(
        self,
        as_alice: Client,
        conversation: int,
        accept: str,
        query: str,
        standard: bool,
    ) -> None:
        response = as_alice.post(
            f"/api/chat/{conversation}{query}",
            json={"message": "Hi"},
            headers={"Accept": accept},
        )

        assert ("data: " in response.text) is standard

    @pytest.mark.parametrize("query", ["format=xml", "a=1&" * 2000 + "format=seed"])
    def test_an_unknown_format_is_refused_before_anything_is_stored(
        self, as_alice: Client, conversation: int, query: str
    ) -> None:
        response = as_alice.post(
            f"/api/chat/{conversation}?{query}", json={"message": "Hi"}
        )

        assert response.status_code == 400
        assert as_alice.history(conversation) == []


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "body",
        [
            *[b"", b"null", b"[]", b'"Hi"', b"{", b"{}", b"\xff", b"[" * 100_000],
            *[b'{"message": null}', b'{"message": 1}', b'{"message": ""}'],
            b'{"message": " \\n"}',
        ],
    )
    def test_a_body_without_a_message_is_a_400(
        self, as_alice: Client, conversation: int, body: bytes
    ) -> None:
        response = as_alice.post(f"/api/chat/{conversation}", content=body)

        assert response.status_code == 400
        assert response.json()["code"] == "invalid"
        assert as_alice.history(conversation) == []

    @pytest.mark.parametrize("name", ["abc", "1.5", "-1", "1e3", "%20"])
    def test_an_id_that_is_no_integer_is_a_400(
        self, as_alice: Client, name: str
    ) -> None:
        response = as_alice.post(f"/api/chat/{name}", json={"message": "Hi"})

        assert response.status_code == 400

    @pytest.mark.parametrize("number", [1, 2**53, 2**63, 10**30])
    def test_an_unknown_conversation_is_a_404(
        self, as_alice: Client, number: int
    ) -> None:
        response = as_alice.ask(number, "Hi")

        assert response.status_code == 404
        assert response.json()["code"] == "not_found"

    def test_a_body_over_256_kib_is_a_413(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        response = as_alice.ask(conversation, "x" * (256 << 10))

        assert response.status_code == 413
        assert response.json()["code"] == "too_large"
        assert not provider.requests

    def test_no_token_is_a_401_whatever_the_body(
        self, anonymous: Client, conversation: int
    ) -> None:
        response = anonymous.post(f"/api/chat/{conversation}", content=b"{")

        assert response.status_code == 401
        assert response.json()["code"] == "unauthorized"

    def test_a_model_that_is_configured_no_more_is_a_400(
        self, as_alice: Client, conversation: int
    ) -> None:
        from conversations.models import Conversation

        Conversation.objects.update(model="withdrawn-1")

        response = as_alice.ask(conversation, "Hi")

        assert response.status_code == 400
        assert response.json()["code"] == "unknown_model"
        assert as_alice.history(conversation) == []


class TestFailuresBeforeTheFirstToken:
    @pytest.mark.parametrize(
        ("script", "status", "code"),
        [
            (refusal(401), 502, "provider_auth"),
            (refusal(403), 502, "provider_auth"),
            (refusal(404), 502, "provider_error"),
            (refusal(429, headers={"Retry-After": "60"}), 503, "provider_busy"),
            (PAGE, 502, "provider_protocol"),
            (Script(pieces=(), usage=None), 502, "empty_answer"),
        ],
    )
    def test_they_are_a_status_and_the_question_is_kept(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        script: Script,
        status: int,
        code: str,
    ) -> None:
        provider.default = script

        response = as_alice.ask(conversation, "Hi")

        assert (response.status_code, response.json()["code"]) == (status, code)
        assert "refused with" not in response.text
        if status == 503:
            assert int(response.headers["Retry-After"]) > 0
        question, answer = as_alice.history(conversation)
        assert question["content"] == "Hi"
        assert (answer["status"], answer["content"]) == ("failed", "")
        assert Message.objects.get(number=2).error_code == code

    def test_the_next_message_joins_what_was_not_answered(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(refusal(401))
        as_alice.ask(conversation, "First?")

        as_alice.ask(conversation, "Second?")

        sent = provider.requests[-1].body["messages"]
        assert [m["role"] for m in sent] == ["system", "user"]
        assert sent[-1]["content"] == "First?\n\nSecond?"


class TestFailuresAfterTheFirstToken:
    def test_the_next_message_works_and_sends_what_was_kept(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["Hel", "lo"], cut="rst", cut_after=2))
        as_alice.ask(conversation, "Hi")

        assert as_alice.ask(conversation, "Go on").status_code == 200

        sent = provider.requests[-1].body["messages"]
        assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
        assert sent[2]["content"] == "Hello"


class TestWhatTheProviderIsSent:
    def test_system_prompt_history_and_question_with_role_and_content_only(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        as_alice.ask(conversation, "One?")

        as_alice.ask(conversation, "Two?")

        body = provider.requests[-1].body
        assert body["model"] == "gpt-4o"
        assert body["stream"] is True
        assert body["messages"] == [
            {"role": "system", "content": "你是一个乐于回答各种问题的小助手"},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Two?"},
        ]

    @pytest.mark.parametrize("max_tokens", [15_999, 16_000, 1_000_000])
    def test_what_was_said_is_sent_however_long_an_answer_may_be(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        max_tokens: int,
    ) -> None:
        as_alice.patch(
            f"/api/conversations/{conversation}", json={"max_tokens": max_tokens}
        )
        as_alice.ask(conversation, "My name is Ann.")

        as_alice.ask(conversation, "What is my name?")

        assert "My name is Ann." in str(provider.requests[-1].body["messages"])

    def test_the_conversations_key_goes_before_the_configured_one(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        as_alice.ask(as_alice.conversation(api_key="sk-alices-own"), "Hi")
        as_alice.ask(as_alice.conversation(), "Hi")

        assert [r.api_key for r in provider.requests] == [
            "sk-alices-own",
            "sk-configured-key",
        ]

    def test_a_key_given_for_another_origin_is_not_sent(
        self, as_alice: Client, provider: FakeProvider
    ) -> None:
        from conversations.models import Conversation

        conversation = as_alice.conversation(model="gone-1", api_key="sk-for-gone")
        Conversation.objects.update(model="gpt-4o")

        response = as_alice.ask(conversation, "Hi")

        assert response.status_code == 409
        assert response.json()["code"] == "stored_key_unreadable"
        assert not provider.requests


class TestOneAnswerAtATime:
    def test_of_four_messages_at_once_one_is_answered_and_three_get_409(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        script = provider.default = Script(stall_after=1)

        def send(number: int) -> Any:
            return as_alice.ask(conversation, f"Message {number}")

        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(send, n) for n in range(4)]
            assert eventually(lambda: sum(f.done() for f in sent) == 3)
            script.release.set()
            responses = [f.result() for f in sent]

        assert sorted(r.status_code for r in responses) == [200, 409, 409, 409]
        codes = {r.json()["code"] for r in responses if r.status_code == 409}
        assert codes == {"answer_in_progress"}
        assert [m["message_id"] for m in as_alice.history(conversation)] == [1, 2]
        assert len(provider.requests) == 1

    def test_the_refused_message_can_be_sent_afterwards(
        self, as_alice: Client, conversation: int
    ) -> None:
        assert as_alice.ask(conversation, "One").status_code == 200
        assert as_alice.ask(conversation, "Two").status_code == 200

        assert [m["message_id"] for m in as_alice.history(conversation)] == [1, 2, 3, 4]


class TestReadersThatLeave:
    def test_the_answer_is_written_to_its_end(
        self,
        server: Served,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        script = provider.default = Script(pieces=["Hel", "lo"], stall_after=1)

        with as_alice.stream(
            "POST", f"/api/chat/{conversation}", json={"message": "Hi"}
        ) as response:
            assert next(response.iter_text()).startswith('{"event":"message"')
        script.release.set()
        until_idle(server)

        assert as_alice.history(conversation)[-1]["content"] == "Hello"
        assert "status" not in as_alice.history(conversation)[-1]

    def test_history_shows_the_answer_being_written(
        self, as_alice: Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = Script(pieces=["Hel", "lo"], stall_after=1)

        with as_alice.stream(
            "POST", f"/api/chat/{conversation}", json={"message": "Hi"}
        ) as response:
            next(response.iter_text())
            shown = as_alice.history(conversation)

        assert [m["role"] for m in shown] == ["user", "assistant"]
        assert shown[-1]["status"] == "streaming"


class TestDeletingDuringAStream:
    def test_it_ends_the_answer_closes_the_provider_and_leaves_no_row(
        self,
        server: Served,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        provider.default = Script(pieces=["Hel", "lo"], stall_after=1)

        with as_alice.stream(
            "POST", f"/api/chat/{conversation}", json={"message": "Hi"}
        ) as response:
            lines = response.iter_lines()
            next(lines)
            deleted = as_alice.post(f"/api/conversations/del/{conversation}")
            rest = "\n".join(lines)

        assert deleted.status_code == 200
        said = "This conversation has been deleted."
        assert seed_events(rest)[-1] == {"event": "error", "data": said}
        assert provider.wait_until(lambda: provider.answering == 0)
        assert provider.requests[0].client_left_at is not None
        until_idle(server)
        assert not Message.objects.exists()
        gone = as_alice.get(f"/api/conversations/history/{conversation}")
        assert gone.status_code == 404


class TestHygiene:
    @pytest.mark.parametrize(
        ("raw", "stored"),
        [
            ([r'"\ud83d"', r'"\ude00!"'], "😀!"),
            ([r'"a\ud83d"', r'"b"'], "a\ufffdb"),
            ([r'"a\u0000b"'], "ab"),
            ([r'"\ude00"'], "\ufffd"),
        ],
    )
    def test_what_is_streamed_stored_and_replayed_is_one_string(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        raw: list[str],
        stored: str,
    ) -> None:
        chunks = "".join(
            f'data: {{"choices":[{{"index":0,"delta":{{"content":{piece}}}}}]}}\n\n'
            for piece in raw
        )
        provider.default = Script(body=chunks.encode() + b"data: [DONE]\n\n")

        asked = rb'{"message": "Hi\ud800\u0000"}'
        response = as_alice.post(f"/api/chat/{conversation}", content=asked)

        events = seed_events(response.text)

        pieces = "".join(e["data"] for e in events if e["event"] == "message")
        assert pieces == events[-1]["data"] == stored
        question, answer = as_alice.history(conversation)
        assert answer["content"] == stored
        assert question["content"] == "Hi\ufffd"


class TestFinishReasons:
    @pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
    def test_a_terminal_signal_completes_and_its_reason_is_kept(
        self,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
        reason: str,
    ) -> None:
        provider.default = Script(finish_reason=reason)

        as_alice.ask(conversation, "Hi")

        answer = Message.objects.get(number=2)
        assert (answer.status, answer.finish_reason) == ("complete", reason)
        assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
        assert answer.writer_id is None
        assert answer.first_token_at
        assert answer.finished_at
        assert answer.first_token_at <= answer.finished_at
