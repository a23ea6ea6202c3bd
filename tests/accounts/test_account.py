"""A user's own account: profile, password, and its end."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from django.apps import apps
from django.db import connection
from django.test import Client as Browser
from redis import Redis

from accounts.models import AuditEntry, RevokedToken, User
from conversations.models import Writer
from tests.chat.eventually import eventually
from tests.chat.streams import SSE, events_in
from tests.conftest import PASSWORD, REDIS_PASSWORD, client_of
from tests.fake_provider import Script
from tests.patience import PATIENCE
from tests.rag.embeddings import make_base

ME = "/api/users/me"
CHANGE = "/api/users/password"
GUARDED = "/api/conversations/list"
NEW = "another fine password"
WRONG = {"error": "The password is wrong.", "code": "wrong_password"}


def log_in(client, password=PASSWORD, username="alice"):
    body = {"username": username, "password": password}
    return client.post("/api/users/login", json=body)


def change(client, password=PASSWORD, new_password=NEW):
    body = {"password": password, "new_password": new_password}
    return client.post(CHANGE, json=body)


def delete(client, password=PASSWORD):
    return client.request("DELETE", ME, json={"password": password})


def assert_wrong(response):
    assert response.status_code == 403
    body = response.json()
    assert body.pop("request_id")
    assert body == WRONG


class TestTheProfile:
    def test_says_who_one_is(self, as_alice, alice):
        response = as_alice.get(ME)

        assert response.status_code == 200
        assert response.json() == {
            "user_id": alice.pk,
            "username": "alice",
            "email": "",
            "first_name": "",
            "last_name": "",
            "is_staff": False,
            "created_time": int(alice.date_joined.timestamp()),
            "last_login_time": None,
        }

    def test_says_when_one_last_logged_in(self, alice, anonymous):
        headers = {"Authorization": f"Bearer {log_in(anonymous).json()['token']}"}

        last = anonymous.get(ME, headers=headers).json()["last_login_time"]

        assert abs(last - time.time()) < 60

    def test_is_changed_field_by_field(self, as_alice):
        as_alice.patch(ME, json={"first_name": "爱丽丝", "last_name": "Liddell"})

        changed = as_alice.patch(ME, json={"email": "alice@example.com"})

        assert changed.status_code == 200
        assert changed.json() == as_alice.get(ME).json()
        assert changed.json()["email"] == "alice@example.com"
        assert changed.json()["first_name"] == "爱丽丝"
        assert changed.json()["last_name"] == "Liddell"

    def test_can_be_emptied_again(self, as_alice):
        as_alice.patch(ME, json={"email": "alice@example.com"})

        assert as_alice.patch(ME, json={"email": ""}).json()["email"] == ""

    @pytest.mark.parametrize(
        "field", ["username", "is_staff", "is_superuser", "password", "token_version"]
    )
    def test_leaves_alone_what_is_no_part_of_it(self, as_alice, alice, field):
        before = User.objects.values().get()

        response = as_alice.patch(ME, json={field: "1"})

        assert response.status_code == 200
        assert User.objects.values().get() == before

    @pytest.mark.parametrize(
        "body",
        [
            {"email": "alice"},
            {"email": None},
            {"email": "a" * 250 + "@example.com"},
            {"first_name": 7},
            {"first_name": "x" * 151},
            {"last_name": "\0"},
        ],
        ids=str,
    )
    def test_refuses_what_cannot_be_stored(self, as_alice, body):
        before = User.objects.values().get()

        response = as_alice.patch(ME, json=body)

        assert response.status_code == 400
        assert response.json()["code"] == "invalid"
        assert User.objects.values().get() == before


class TestANewPassword:
    def test_is_the_one_to_log_in_with(self, as_alice, anonymous):
        assert change(as_alice).status_code == 200

        assert log_in(anonymous, NEW).status_code == 200
        assert log_in(anonymous, PASSWORD).status_code == 401

    def test_ends_every_token_and_begins_a_log_in(self, as_alice, anonymous):
        other = log_in(anonymous).json()

        begun = change(as_alice)

        assert as_alice.get(GUARDED).status_code == 401
        body = {"refresh": other["refresh"]}
        renewed = anonymous.post("/api/users/token/refresh", json=body)
        assert renewed.status_code == 401
        assert begun.headers["cache-control"] == "no-store"
        assert set(begun.json()) == {"token", "refresh"}
        as_alice.headers["Authorization"] = f"Bearer {begun.json()['token']}"
        assert as_alice.get(GUARDED).status_code == 200

    def test_needs_the_old_one(self, as_alice):
        assert_wrong(change(as_alice, password="wrong password"))

        assert as_alice.get(GUARDED).status_code == 200

    @pytest.mark.parametrize(
        ("new", "complaint"),
        [
            ("password123", "new_password: This password is too common."),
            ("x" * 129, "new_password: A password has at most 128 characters."),
            ("", "new_password: This field may not be blank."),
        ],
    )
    def test_is_refused_if_it_is_weak(self, as_alice, new, complaint):
        response = change(as_alice, new_password=new)

        assert response.status_code == 400
        assert response.json()["error"] == complaint
        assert as_alice.get(GUARDED).status_code == 200

    def test_is_taken_as_it_is_and_in_no_log(self, as_alice, anonymous, caplog):
        caplog.set_level("DEBUG")
        new = " 密码 canary-37 "

        assert change(as_alice, new_password=new).status_code == 200

        assert log_in(anonymous, new).status_code == 200
        assert "canary-37" not in caplog.text


class TestFailures:
    @pytest.mark.parametrize("ask", [change, delete])
    def test_count_like_failed_log_ins(self, served, as_alice, settings, ask):
        # Any proxy: this machine is then limited like all others.
        server = replace(settings.CONFIG.server, trusted_proxies=("192.0.2.1",))
        settings.CONFIG = replace(settings.CONFIG, server=server)

        for _ in range(10):
            assert_wrong(ask(as_alice, password="wrong password"))

        refused = ask(as_alice, password=PASSWORD)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        with client_of(served, None) as anonymous:
            assert log_in(anonymous).status_code == 429


class TestDeletion:
    def test_needs_the_password(self, as_alice):
        assert_wrong(delete(as_alice, password="wrong password"))
        assert as_alice.request("DELETE", ME, json={}).status_code == 400

        assert User.objects.exists()

    def test_leaves_nothing_of_the_user_and_all_of_others(
        self, as_alice, as_mallory, anonymous
    ):
        everything(as_mallory)
        mallorys = rows()
        everything(as_alice)
        assert any(rows()[label] != kept for label, kept in mallorys.items())

        response = delete(as_alice)

        assert response.status_code == 200
        assert response.json() == {"message": "Account deleted successfully"}
        # Alice herself was there before Mallory did anything.
        assert rows() == {**mallorys, "accounts.User": ["mallory"]}
        assert as_alice.get(ME).status_code == 401
        assert log_in(anonymous).status_code == 401

    def test_gives_the_name_free_and_nothing_else_of_it(self, as_alice, anonymous):
        as_alice.conversation()
        delete(as_alice)

        body = {"username": "alice", "password": NEW}
        assert anonymous.post("/api/users/register", json=body).status_code == 201

        assert as_alice.get(ME).status_code == 401
        token = log_in(anonymous, NEW).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert anonymous.get(GUARDED, headers=headers).json() == []

    def test_ends_the_answers_that_are_being_written(self, as_alice, provider, server):
        held = Script(pieces=["Hel", "lo"], stall_after=1)
        provider.enqueue(held)
        path = f"/api/chat/{as_alice.conversation()}"
        question = {"json": {"message": "Hi"}, "headers": SSE}
        with as_alice.stream("POST", path, **question) as response:
            events = events_in(response.iter_lines())
            next(events)
            assert held.reached.wait(PATIENCE)

            assert delete(as_alice).status_code == 200

            last = list(events)[-1]
        # "not_found" says the writer, whose row is gone; "unauthorized" says the look
        # at ended sign-ins, should its turn, every 20 s, come just now.
        assert last.name == "error"
        assert last.data["code"] in {"not_found", "unauthorized"}
        assert provider.wait_until(lambda: provider.answering == 0)

    def test_begins_by_refusing_the_user_and_waits_for_what_was_under_way(
        self, as_alice, as_mallory, refused_deletion
    ):
        with ThreadPoolExecutor(1) as pool:
            deleting = pool.submit(delete, as_alice)
            assert eventually(lambda: as_alice.get(GUARDED).status_code == 401)
            assert User.objects.filter(username="alice").exists()

            refused_deletion()

            assert deleting.result().status_code == 200
        assert not User.objects.filter(username="alice").exists()
        assert as_mallory.get(GUARDED).status_code == 200

    @pytest.fixture
    def refused_deletion(self, alice):
        """The database refuses to delete Alice until this is called."""
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE held (who BIGINT REFERENCES accounts_user)")
            cursor.execute("INSERT INTO held VALUES (%s)", [alice.pk])
            yield lambda: cursor.execute("DELETE FROM held")
            cursor.execute("DROP TABLE held")

    def test_forgets_what_redis_holds_of_the_user_alone(
        self, as_alice, as_mallory, redis
    ):
        for client in (as_alice, as_mallory):
            everything(client)
        assert cached(redis) == {"Hello from alice", "Hello from mallory"}

        delete(as_alice)

        assert cached(redis) == {"Hello from mallory"}

    def test_in_the_admin_is_the_same(self, as_alice, redis):
        everything(as_alice)
        alice = User.objects.get()
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(User.objects.create_superuser("root", password=PASSWORD))
        page = f"/admin/accounts/user/{alice.pk}/delete/"

        assert browser.get(page).status_code == 200
        assert browser.post(page, {"post": "yes"}).status_code == 302

        assert cached(redis) == set()
        left = {name: kept for name, kept in rows().items() if kept}
        assert left == {"accounts.User": ["root"]}

    def test_of_several_in_the_admin_is_the_same(self, as_alice, as_mallory, redis):
        everything(as_alice)
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(User.objects.create_superuser("root", password=PASSWORD))
        chosen = list(
            User.objects.exclude(username="root").values_list("pk", flat=True)
        )
        action = {"action": "delete_selected", "_selected_action": chosen}

        browser.post("/admin/accounts/user/", {**action, "post": "yes"})

        assert cached(redis) == set()
        assert rows()["accounts.User"] == ["root"]


def everything(client):
    """A user does everything that leaves something of theirs."""
    name = client.get(ME).json()["username"]
    conversation = client.conversation()
    question = f"Hello from {name}"
    headers = {"Idempotency-Key": "once"}
    asked = client.ask(conversation, question, headers=headers)
    assert asked.status_code == 200
    client.history(conversation)
    base = make_base(client, kb_name="Birds")
    file = {"file": ("a.txt", b"Swifts fly.")}
    uploaded = client.post("/api/rag/doc/upload", data={"kb_id": base}, files=file)
    assert uploaded.status_code == 200


def rows():
    """
    The keys of every row there is of the project's, by model; users by name.

    That they are gone is in the audit log, which stays.
    """
    ours = ("accounts", "conversations", "rag")
    models = [m for m in apps.get_models() if m._meta.app_label in ours]
    return {
        model._meta.label: sorted(
            model._default_manager.values_list(
                "username" if model is User else "pk", flat=True
            )
        )
        for model in models
        if model not in {AuditEntry, Writer, RevokedToken}
    }


def cached(redis):
    """The questions in the histories that Redis holds now."""
    with Redis(port=redis.port, password=REDIS_PASSWORD) as client:
        stored = [client.get(key).decode() for key in client.scan_iter("*history*")]
    questions = ("Hello from alice", "Hello from mallory")
    return {text for text in questions if any(text in value for value in stored)}
