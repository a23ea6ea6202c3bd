"""Conversations with a real Redis, and with one that fails in every way it can."""

import signal
import time

import pytest
from redis import Redis

from accounts.tokens import issue
from conversations.history import closed_path, history
from conversations.lifecycle import delete
from conversations.models import Conversation, Message
from tests.conftest import PASSWORD, REDIS_PASSWORD, REDIS_TIME_OUT
from tests.conversations.conftest import make_conversation, make_turns
from tests.fake_provider import Script
from tests.patience import PATIENCE


@pytest.fixture
def stored(redis):
    """What lies in Redis now, as a function: its keys and their texts."""

    def read():
        with Redis(port=redis.port, password=REDIS_PASSWORD) as client:
            return {
                key.decode(): client.get(key).decode() for key in client.scan_iter()
            }

    return read


def freeze(redis):
    redis.process.send_signal(signal.SIGSTOP)


def go_on(redis):
    redis.process.send_signal(signal.SIGCONT)


def contents(messages):
    return [message["content"] for message in messages]


def complaints(caplog):
    return [r for r in caplog.records if r.name == "llmbackend.cache"]


class TestAtWork:
    def test_history_lies_under_a_key_with_the_conversations_version(
        self, as_alice, stored
    ):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")

        as_alice.history(conversation)

        version = Conversation.objects.get().version
        ours = [key for key in stored() if key.endswith(f":{conversation}:{version}")]
        assert len(ours) == 1
        assert '"Hello!"' in stored()[ours[0]]

    def test_history_is_read_from_it(self, as_alice, stored, statements):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        first = as_alice.history(conversation)
        Message.objects.update(content="changed behind its back")
        statements.clear()

        again = as_alice.history(conversation)

        assert again == first
        assert len(statements) == 2

    def test_a_new_version_is_read_anew(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        as_alice.history(conversation)
        Message.objects.update(content="changed")

        Conversation.objects.update(version=Conversation.objects.get().version + 1)

        assert contents(as_alice.history(conversation)) == ["changed", "changed"]

    def test_each_turn_shows_at_once(self, as_alice, redis, provider):
        conversation = as_alice.conversation()

        for number in range(3):
            provider.enqueue(Script(pieces=[f"Answer {number}"]))
            as_alice.ask(conversation, f"Question {number}")
            said = contents(as_alice.history(conversation))
            assert said[-2:] == [f"Question {number}", f"Answer {number}"]
            assert len(said) == 2 * (number + 1)

    def test_the_model_is_sent_what_was_said(self, as_alice, redis, provider):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        as_alice.history(conversation)

        as_alice.ask(conversation, "And?")

        sent = [m["content"] for m in provider.requests[-1].body["messages"]]
        assert sent[1:] == ["Hi", "Hello!", "And?"]

    def test_what_expires_is_let_go(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        as_alice.history(conversation)

        with Redis(port=redis.port, password=REDIS_PASSWORD) as client:
            ttls = [client.ttl(key) for key in client.scan_iter()]
        assert ttls
        assert all(0 < ttl <= 3600 for ttl in ttls)

    def test_delete_removes_every_version(self, as_alice, stored):
        conversation, kept = as_alice.conversation(), as_alice.conversation()
        for _ in range(3):
            as_alice.ask(conversation, "Hi")
            as_alice.history(conversation)
        as_alice.ask(kept, "Hi")
        as_alice.history(kept)
        assert sum(str(conversation) in key for key in stored()) == 3

        as_alice.post(f"/api/conversations/del/{conversation}")

        assert not any(str(conversation) in key for key in stored())
        assert any(str(kept) in key for key in stored())

    def test_who_read_before_the_deletion_leaves_nothing_behind(self, alice, stored):
        made = make_conversation(alice)
        make_turns(made, "Private")
        conversation, _ = history(user=alice, conversation_id=made.pk)
        delete(owner=alice, conversation_id=made.pk)

        closed_path(conversation, leaf_id=conversation.active_leaf_id)

        assert stored() == {}

    def test_an_entry_that_cannot_be_read_is_passed_over(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        first = as_alice.history(conversation)
        with Redis(port=redis.port, password=REDIS_PASSWORD) as client:
            for key in client.scan_iter():
                client.set(key, b"\xff{")

        assert as_alice.history(conversation) == first

    def test_nothing_secret_lies_in_it(self, as_alice, alice, anonymous, stored):
        key = "sk-canary-0d1f9b7a55"
        login = {"username": "alice", "password": PASSWORD}
        token = anonymous.post("/api/users/login", json=login).json()["token"]
        conversation = as_alice.conversation(api_key=key)
        as_alice.ask(conversation, "Hi")
        as_alice.history(conversation)

        lying = str(stored())

        assert "Hello!" in lying
        sealed = Conversation.objects.get().api_key
        for secret in (key, sealed, PASSWORD, alice.password, token, issue(alice)):
            assert secret not in lying


class TestGone:
    def test_nothing_fails_when_it_is_killed_in_mid_flight(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        as_alice.history(conversation)

        redis.stop()

        as_alice.ask(conversation, "And?")
        said = contents(as_alice.history(conversation))
        assert said == ["Hi", "Hello!", "And?", "Hello!"]
        assert len(as_alice.get("/api/conversations/list").json()) == 1
        deleted = as_alice.post(f"/api/conversations/del/{conversation}")
        assert deleted.status_code == 200

    def test_an_answer_on_its_way_arrives_whole(self, as_alice, redis, provider):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        script = Script(pieces=["be", "fore", " after"], stall_after=2)
        provider.enqueue(script)

        path = f"/api/chat/{conversation}"
        with as_alice.stream("POST", path, json={"message": "Long?"}) as response:
            assert script.reached.wait(PATIENCE)
            redis.stop()
            script.release.set()
            response.read()

        assert response.text.endswith('"data":"before after"}\n\n')
        assert contents(as_alice.history(conversation))[-1] == "before after"

    def test_it_is_used_again_when_it_is_back(self, as_alice, redis, stored):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        redis.stop()
        as_alice.history(conversation)
        assert as_alice.get("/readyz").json()["redis"] == "unreachable"

        redis.start()

        assert as_alice.get("/readyz").json()["redis"] == "ok"
        assert contents(as_alice.history(conversation)) == ["Hi", "Hello!"]
        assert any(str(conversation) in key for key in stored())

    def test_an_empty_one_is_filled_from_the_database(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        before = as_alice.history(conversation)

        redis.stop()
        redis.start()
        as_alice.get("/readyz")

        assert as_alice.history(conversation) == before
        assert as_alice.ask(conversation, "Still there?").status_code == 200

    def test_the_log_says_so_once_and_without_the_password(
        self, as_alice, redis, caplog
    ):
        caplog.set_level("DEBUG")
        conversation = as_alice.conversation()
        redis.stop()

        for _ in range(20):
            as_alice.history(conversation)
            as_alice.ask(conversation, "Hi")
            as_alice.get("/readyz")  # Asks Redis each time.

        (complaint,) = complaints(caplog)
        assert "Redis cannot be used" in complaint.getMessage()
        assert REDIS_PASSWORD not in caplog.text

    def test_one_that_refuses_the_password_is_like_none(
        self, as_alice, redis, settings, caplog
    ):
        options = settings.CACHES["default"]["OPTIONS"]
        wrong = {**options, "PASSWORD": "canary-wrong"}
        address = f"redis://{redis.address}/1"
        changed = {"LOCATION": address, "OPTIONS": wrong}
        settings.CACHES = {"default": {**settings.CACHES["default"], **changed}}
        conversation = as_alice.conversation()

        as_alice.ask(conversation, "Hi")

        assert contents(as_alice.history(conversation)) == ["Hi", "Hello!"]
        assert len(complaints(caplog)) == 1
        assert "canary" not in caplog.text


def timed_out(took: list[float]) -> list[float]:
    """Of the seconds that requests took, those of who waited for Redis in vain."""
    return [seconds for seconds in took if seconds >= REDIS_TIME_OUT]


class TestFrozen:
    """A Redis that holds its connections and does not answer."""

    def test_it_costs_one_time_out_then_none(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        freeze(redis)

        took = []
        for _ in range(10):
            began = time.monotonic()
            assert contents(as_alice.history(conversation)) == ["Hi", "Hello!"]
            took.append(time.monotonic() - began)

        assert len(timed_out(took)) == 1

    def test_a_probe_does_not_let_others_run_into_the_time_out(self, as_alice, redis):
        conversation = as_alice.conversation()
        freeze(redis)
        as_alice.get("/readyz")

        took = []
        for _ in range(10):
            began = time.monotonic()
            as_alice.history(conversation)
            took.append(time.monotonic() - began)

        assert timed_out(took) == []

    def test_nothing_is_stale_when_it_goes_on(self, as_alice, redis, provider):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "One?")
        as_alice.history(conversation)
        freeze(redis)
        as_alice.ask(conversation, "Two?")
        as_alice.history(conversation)
        as_alice.ask(conversation, "Three?")

        go_on(redis)
        assert as_alice.get("/readyz").json()["redis"] == "ok"

        questions = contents(as_alice.history(conversation))[::2]
        assert questions == ["One?", "Two?", "Three?"]
        as_alice.ask(conversation, "Four?")
        sent = [m["content"] for m in provider.requests[-1].body["messages"]]
        assert sent[1::2] == ["One?", "Two?", "Three?", "Four?"]
        assert contents(as_alice.history(conversation))[::2] == [*questions, "Four?"]

    def test_what_was_deleted_meanwhile_stays_deleted(self, as_alice, redis):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        as_alice.history(conversation)
        freeze(redis)

        deleted = as_alice.post(f"/api/conversations/del/{conversation}")
        go_on(redis)
        as_alice.get("/readyz")

        assert deleted.status_code == 200
        path = f"/api/conversations/history/{conversation}"
        assert as_alice.get(path).status_code == 404
        assert as_alice.ask(conversation, "Hi").status_code == 404
