"""Personal API keys; which scope opens which route is in the ownership table."""

import hashlib
import json
import re
import time
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from django.test import Client as Browser
from django.utils import timezone
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from accounts.models import ApiKey, User
from accounts.tokens import claims_of, ended_claims
from tests.chat.streams import SSE
from tests.conftest import PASSWORD, client_with, make_key
from tests.fake_provider import Script
from tests.patience import PATIENCE
from tests.rag.embeddings import make_base

KEYS = "/api/users/keys"
GUARDED = "/api/conversations/list"
ALL = ("chat", "kb:read", "kb:write", "account")


def create(client, **fields):
    return client.post(KEYS, json={"name": "Script", "scopes": ["chat"], **fields})


def status_with(client, bearer, path=GUARDED):
    return client.get(path, headers={"Authorization": f"Bearer {bearer}"}).status_code


@pytest.fixture
def with_key(server, alice):
    """A client with a key of Alice's, of the given scopes and limits."""
    opened = []

    def make(*scopes, **limits):
        opened.append(client_with(server, make_key(alice, *scopes, **limits)[1]))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


class TestMakingOne:
    def test_shows_the_key_this_once(self, as_alice, anonymous):
        response = create(as_alice)

        assert response.status_code == 201
        assert response.headers["cache-control"] == "no-store"
        told = response.json()
        key = told.pop("key")
        assert re.fullmatch(r"llmb_[A-Za-z0-9_-]{43}", key)
        assert told.pop("key_id") == str(ApiKey.objects.get().pk)
        assert abs(told.pop("created_time") - time.time()) < 60
        assert told == {
            "name": "Script",
            "hint": f"llmb_…{key[-4:]}",
            "scopes": ["chat"],
            "kb_ids": None,
            "models": None,
            "expires_time": None,
            "last_used_time": None,
        }
        assert key not in as_alice.get(KEYS).text
        assert status_with(anonymous, key) == 200

    def test_stores_its_hash_alone(self, as_alice):
        key = create(as_alice).json()["key"]

        stored = ApiKey.objects.values().get()
        assert stored["hash"] == hashlib.sha256(key.encode()).hexdigest()
        assert key[5:] not in str(stored)

    def test_is_possible_several_times_under_one_name(self, as_alice, anonymous):
        keys = [create(as_alice).json()["key"] for _ in range(3)]

        assert len(set(keys)) == 3
        assert [status_with(anonymous, key) for key in keys] == [200] * 3
        assert len(as_alice.get(KEYS).json()["keys"]) == 3

    def test_keeps_what_it_is_limited_to(self, as_alice):
        base = str(uuid.uuid4())
        limits = {
            "scopes": ["kb:read", "chat", "chat"],
            "kb_ids": [base],
            "models": ["gpt-4*"],
            "expires_time": int(time.time()) + 3600,
        }

        told = create(as_alice, **limits).json()

        told.pop("key")
        assert told["scopes"] == ["chat", "kb:read"]
        assert {name: told[name] for name in limits if name != "scopes"} == {
            name: value for name, value in limits.items() if name != "scopes"
        }
        assert as_alice.get(KEYS).json() == {"keys": [told]}

    @pytest.mark.parametrize(
        "fields",
        [
            {"name": ""},
            {"name": None},
            {"name": "x" * 201},
            {"scopes": []},
            {"scopes": ["admin"]},
            {"scopes": "chat"},
            {"scopes": None},
            {"kb_ids": ["7"]},
            {"kb_ids": [7]},
            {"models": [""]},
            {"models": "gpt-4o"},
            {"expires_time": 1},
            {"expires_time": "2099-01-01"},
            {"expires_time": 10**12},
        ],
        ids=str,
    )
    def test_of_another_shape_is_a_400(self, as_alice, fields):
        response = create(as_alice, **fields)

        assert response.status_code == 400
        assert response.json()["code"] == "invalid"
        assert not ApiKey.objects.exists()

    def test_is_in_no_log(self, as_alice, anonymous, caplog):
        caplog.set_level("DEBUG")

        key = create(as_alice).json()["key"]
        status_with(anonymous, key)

        assert key[5:] not in caplog.text


class TestAKey:
    @pytest.mark.parametrize(
        "change",
        [
            lambda key: key[:-1],
            lambda key: key + "A",
            lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
            lambda key: key.upper(),
            lambda key: key[5:],
            lambda key: "llmb_",
            lambda key: "llmb_" + "A" * 20_000,
            lambda key: hashlib.sha256(key.encode()).hexdigest(),
            lambda key: "llmb_" + hashlib.sha256(key.encode()).hexdigest(),
        ],
    )
    def test_that_is_not_exactly_one_is_a_401(self, alice, anonymous, change):
        _, key = make_key(alice, "chat")
        assert status_with(anonymous, key) == 200

        assert status_with(anonymous, change(key)) == 401

    def test_ends_when_it_is_deleted(self, as_alice, anonymous):
        told, other = create(as_alice).json(), create(as_alice).json()

        response = as_alice.delete(f"{KEYS}/{told['key_id']}")

        assert response.status_code == 200
        assert response.json() == {"message": "API key deleted successfully"}
        assert status_with(anonymous, told["key"]) == 401
        assert status_with(anonymous, other["key"]) == 200
        assert as_alice.delete(f"{KEYS}/{told['key_id']}").status_code == 404
        assert as_alice.delete(f"{KEYS}/7").status_code == 404

    def test_ends_when_it_expires(self, alice, anonymous):
        soon = timezone.now() + timedelta(minutes=1)
        _, key = make_key(alice, "chat", expires_at=soon)
        assert status_with(anonymous, key) == 200

        ApiKey.objects.update(expires_at=timezone.now())

        assert status_with(anonymous, key) == 401

    def test_ends_with_its_owner(self, alice, anonymous):
        _, key = make_key(alice, "chat")

        User.objects.update(is_active=False)
        assert status_with(anonymous, key) == 401

        User.objects.update(is_active=True)
        assert status_with(anonymous, key) == 200
        alice.delete()
        assert status_with(anonymous, key) == 401

    def test_outlives_tokens_and_passwords(self, as_alice, alice, anonymous):
        _, key = make_key(alice, "chat")
        change = {"password": PASSWORD, "new_password": "another fine password"}

        assert as_alice.post("/api/users/password", json=change).status_code == 200

        assert status_with(anonymous, key) == 200

    def test_is_noted_as_used_once_a_minute(self, as_alice, alice, anonymous):
        _, key = make_key(alice, "chat")
        status_with(anonymous, key)
        first = as_alice.get(KEYS).json()["keys"][0]["last_used_time"]
        assert abs(first - time.time()) < 60
        noted = self.last_use()

        status_with(anonymous, key)
        assert self.last_use() == noted

        ApiKey.objects.update(last_used_at=noted - timedelta(seconds=61))
        status_with(anonymous, key)
        assert self.last_use() >= noted

    def last_use(self):
        return ApiKey.objects.values_list("last_used_at", flat=True).get()

    def test_is_no_refresh_token(self, alice, anonymous):
        body = {"refresh": make_key(alice, *ALL)[1]}

        response = anonymous.post("/api/users/token/refresh", json=body)

        assert response.status_code == 401

    def test_that_has_ended_ends_the_streams_it_opened(self, alice, mallory):
        keys = [make_key(user, "chat") for user in (alice, alice, alice, mallory)]
        held = [claims_of(text) for _, text in keys]
        assert ended_claims(held) == set()

        keys[0][0].delete()
        ApiKey.objects.filter(pk=keys[1][0].pk).update(expires_at=timezone.now())
        User.objects.filter(pk=mallory.pk).update(is_active=False)

        assert ended_claims(held) == {held[0], held[1], held[3]}


class TestAKeyForCertainBases:
    @pytest.fixture
    def bases(self, as_alice):
        return [make_base(as_alice, kb_name=name) for name in ("Birds", "Bees")]

    @pytest.fixture
    def limited(self, with_key, bases):
        return with_key(*ALL, knowledge_bases=[uuid.UUID(bases[0])])

    def test_sees_these_alone(self, limited, bases):
        listed = limited.get("/api/rag/kb/list").json()["kbs"]

        assert [base["kb_id"] for base in listed] == [bases[0]]

    def test_reads_writes_and_deletes_in_these_alone(self, limited, bases, as_alice):
        statuses = [
            [
                limited.post("/api/rag/retrieve", json={"kb_id": base, "query": "Hi"}),
                limited.get(f"/api/rag/doc/list?kb_id={base}"),
                limited.post(
                    "/api/rag/doc/upload",
                    data={"kb_id": base},
                    files={"file": ("a.txt", b"Swifts fly.")},
                ),
                limited.post("/api/rag/kb/delete", json={"kb_id": base}),
            ]
            for base in bases
        ]

        assert [r.status_code for r in statuses[0]] == [200] * 4
        assert [r.status_code for r in statuses[1]] == [404] * 4
        left = as_alice.get("/api/rag/kb/list").json()["kbs"]
        assert [base["kb_id"] for base in left] == [bases[1]]

    def test_deletes_no_document_of_others(self, limited, bases, as_alice):
        uploaded = as_alice.post(
            "/api/rag/doc/upload",
            data={"kb_id": bases[1]},
            files={"file": ("a.txt", b"Bees hum.")},
        ).json()
        for base in bases:
            body = {"kb_id": base, "doc_id": uploaded["doc_id"]}
            response = limited.post("/api/rag/doc/delete", json=body)
            assert response.status_code == 404

    def test_chats_with_these_alone(self, limited, bases, as_alice):
        conversation = as_alice.conversation()
        body = {"conversation_id": conversation, "message": "Hi"}

        answers = [
            limited.post("/api/rag/chat", json={**body, "kb_id": base})
            for base in bases
        ]

        assert [answer.status_code for answer in answers] == [200, 404]

    def test_makes_no_new_one(self, limited, bases):
        response = limited.post("/api/rag/kb/create", json={"kb_name": "Wasps"})

        assert response.status_code == 403
        said = "This API key is limited to certain knowledge bases."
        assert response.json()["error"] == said

    def test_reaches_no_base_of_someone_else(self, with_key, as_mallory):
        base = make_base(as_mallory, kb_name="Mallory's")
        limited = with_key(*ALL, knowledge_bases=[uuid.UUID(base)])

        assert limited.get(f"/api/rag/doc/list?kb_id={base}").status_code == 404

    def test_of_none_reaches_none(self, with_key, bases):
        assert (
            with_key(*ALL, knowledge_bases=[]).get("/api/rag/kb/list").json()["kbs"]
            == []
        )

    def test_counts_the_documents_of_all_against_the_quota(
        self, limited, bases, as_alice, settings
    ):
        limits = replace(settings.CONFIG.limits, documents=1)
        settings.CONFIG = replace(settings.CONFIG, limits=limits)
        file = {"file": ("a.txt", b"Bees hum.")}
        form = {"data": {"kb_id": bases[1]}, "files": file}
        assert as_alice.post("/api/rag/doc/upload", **form).status_code == 200

        form["data"] = {"kb_id": bases[0]}
        refused = limited.post("/api/rag/doc/upload", **form)

        assert refused.json()["code"] == "quota_exceeded"


class TestAKeyForCertainModels:
    REFUSAL = "This API key may not use the model “gpt-3.5-turbo”."

    @pytest.fixture
    def limited(self, with_key):
        return with_key(*ALL, chat_models=["GPT-4*", "other"])

    def test_makes_conversations_with_these_alone(self, limited):
        path = "/api/conversations/create"
        bodies = [{"title": "A", "model": m} for m in ("gpt-4o", "gpt-3.5-turbo")]

        made, refused = (limited.post(path, json=body) for body in bodies)

        assert made.status_code == 200
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert refused.json()["error"] == self.REFUSAL

    def test_chats_with_these_alone(self, limited, as_alice, provider):
        allowed = as_alice.conversation(model="gpt-4o-mini")
        barred = as_alice.conversation(model="gpt-3.5-turbo")
        base = make_base(as_alice, kb_name="Birds")
        rag = {"conversation_id": barred, "kb_id": base, "message": "Hi"}

        assert limited.ask(allowed, "Hi").status_code == 200
        refused = [
            limited.ask(barred, "Hi"),
            limited.post(f"/api/chat/{barred}/regenerate", json={}),
            limited.post("/api/rag/chat", json=rag),
        ]

        assert [r.status_code for r in refused] == [403] * 3
        assert {r.json()["error"] for r in refused} == {self.REFUSAL}
        assert as_alice.history(barred) == []
        assert len(provider.requests) == 1

    def test_reads_what_was_said_to_others(self, limited, as_alice):
        conversation = as_alice.conversation(model="gpt-3.5-turbo")
        as_alice.ask(conversation, "Hi")

        assert len(limited.history(conversation)) == 2


class TestAnAnswerThatRestsOnABase:
    def test_is_written_anew_with_a_key_that_reads_it_alone(self, as_alice, with_key):
        conversation, base = as_alice.conversation(), make_base(as_alice, kb_name="B")
        file = {"file": ("a.txt", b"Swifts fly to Africa in autumn.")}
        as_alice.post("/api/rag/doc/upload", data={"kb_id": base}, files=file)
        body = {"conversation_id": conversation, "kb_id": base}
        asked = {**body, "message": "Where do swifts fly?"}
        assert as_alice.post("/api/rag/chat", json=asked).status_code == 200
        assert as_alice.history(conversation)[-1]["sources"]
        path = f"/api/chat/{conversation}/regenerate"

        refused = with_key("chat").post(path, json={})
        granted = with_key("chat", "kb:read").post(path, json={})

        assert refused.status_code == 403
        assert "kb:read" in refused.json()["error"]
        assert granted.status_code == 200


class TestStreams:
    @pytest.fixture
    def conversation(self, as_alice):
        return as_alice.conversation()

    def socket(self, served, conversation, key):
        address = served.base_url.replace("http", "ws")
        offered = [Subprotocol("bearer"), Subprotocol(key)]
        return connect(f"{address}/ws/chat/{conversation}", subprotocols=offered)

    def test_a_key_signs_in_to_a_socket_and_asks(self, served, conversation, alice):
        _, key = make_key(alice, "chat")
        with self.socket(served, conversation, key) as socket:
            assert json.loads(socket.recv())["event"] == "ready"
            socket.send(json.dumps({"type": "message", "message": "Hi"}))

            assert json.loads(socket.recv())["event"] == "started"
            while json.loads(socket.recv())["event"] != "done":
                pass

    def test_a_key_without_the_scope_is_told_so_and_the_socket_closed(
        self, served, conversation, alice
    ):
        _, key = make_key(alice, "kb:read")
        with self.socket(served, conversation, key) as socket:
            refusal = json.loads(socket.recv())
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv()

        assert refusal["data"]["code"] == "forbidden"
        assert "“chat”" in refusal["data"]["error"]
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403

    def test_a_ticket_made_with_a_key_opens_the_stream_as_long_as_the_key(
        self, conversation, alice, anonymous, server, provider, with_key
    ):
        stored, key = make_key(alice, "chat")
        held = Script(pieces=["Hel", "lo"], stall_after=1)
        provider.enqueue(held)
        with client_with(server, key) as program:
            made = program.post(f"/api/chat/{conversation}/ticket")
            ticket = made.json()["ticket"]
            path = f"/api/chat/{conversation}/stream?ticket={ticket}"
            asked = {"message": "Hi"}
            with program.stream(
                "POST", f"/api/chat/{conversation}", json=asked, headers=SSE
            ):
                assert held.reached.wait(PATIENCE)
                with anonymous.stream("GET", path, headers=SSE) as reading:
                    assert reading.status_code == 200
                    held.release.set()
                    assert "Hel" in reading.read().decode()

        stored.delete()

        assert anonymous.get(path).status_code == 401


class TestInTheAdmin:
    @pytest.fixture
    def browser(self, server):
        root = User.objects.create_superuser("root", password=PASSWORD)
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(root)
        return browser

    def test_keys_are_listed_and_shown_without_what_they_are(self, browser, alice):
        stored, key = make_key(alice, "chat", chat_models=["gpt-4o"])
        page = "/admin/accounts/apikey/"

        shown = "".join(
            browser.get(path).content.decode()
            for path in (page, f"{page}{stored.pk}/change/")
        )

        assert "alice" in shown
        assert key[-4:] in shown
        assert "gpt-4o" in shown
        assert key[5:] not in shown
        assert stored.hash not in shown
        assert browser.get(f"{page}add/").status_code == 403

    def test_a_key_is_ended(self, browser, alice, anonymous):
        stored, key = make_key(alice, "chat")

        browser.post(f"/admin/accounts/apikey/{stored.pk}/delete/", {"post": "yes"})

        assert status_with(anonymous, key) == 401

    def test_users_are_logged_out_everywhere(self, browser, as_alice, as_mallory):
        alice = User.objects.get(username="alice")
        action = {"action": "end_tokens", "_selected_action": [alice.pk]}

        page = browser.post("/admin/accounts/user/", action, follow=True)

        assert "1 user was logged out everywhere." in page.content.decode()
        assert as_alice.get(GUARDED).status_code == 401
        assert as_mallory.get(GUARDED).status_code == 200
