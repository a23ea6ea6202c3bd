"""The audit log: what is noted, by whom, and that nobody changes it."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.test import Client as Browser
from django.utils import timezone

from accounts import audit
from accounts.logins import begin
from accounts.models import AuditEntry, User
from tests.conftest import PASSWORD, client_with, make_key, make_user

NEW = "a better horse battery"


def noted(**filters):
    """What is in the log, in order: action, who, what kind, and the details."""
    rows = AuditEntry.objects.filter(**filters).order_by("pk")
    return list(rows.values_list("action", "actor_id", "kind", "object_id"))


@pytest.fixture
def root(server):
    return User.objects.create_superuser("root", password=PASSWORD)


@pytest.fixture
def browser(root):
    """A browser in which an administrator has logged in."""
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


@contextmanager
def without_the_log():
    """Nothing can be noted."""
    rename = "ALTER TABLE {} RENAME TO {}"
    with connection.cursor() as cursor:
        cursor.execute(rename.format("accounts_auditentry", "put_aside"))
        try:
            yield
        finally:
            cursor.execute(rename.format("put_aside", "accounts_auditentry"))


def log_in(client, password=PASSWORD, username="alice"):
    body = {"username": username, "password": password}
    return client.post("/api/users/login", json=body)


class TestWhatUsersDo:
    def test_a_log_in_is_noted_with_its_address_and_request(self, alice, anonymous):
        response = log_in(anonymous)

        entry = AuditEntry.objects.get()
        assert entry.action == "logged_in"
        assert (entry.actor_id, entry.object_id) == (alice.pk, str(alice.pk))
        assert entry.address == "127.0.0.1"
        assert entry.request_id == response.headers["X-Request-ID"]
        assert timezone.now() - entry.at < timedelta(minutes=1)

    def test_a_failure_is_noted_without_the_name_that_was_typed(self, alice, anonymous):
        log_in(anonymous, password="wrong-canary")
        log_in(anonymous, username="name-canary")

        me = str(alice.pk)
        assert noted() == [
            ("log_in_failed", None, "accounts.user", me),
            ("log_in_failed", None, "", ""),
        ]
        assert "canary" not in str(list(AuditEntry.objects.values()))

    def test_the_end_of_tokens_is_noted(self, alice, server):
        with client_with(server, begin(alice).token) as client:
            client.post("/api/users/logout").raise_for_status()
        with client_with(server, begin(alice).token) as client:
            client.post("/api/users/logout_all").raise_for_status()

        mine = (alice.pk, "accounts.user", str(alice.pk))
        assert noted() == [
            ("logged_in", *mine),
            ("logged_out", *mine),
            ("logged_in", *mine),
            ("tokens_ended", *mine),
        ]

    def test_a_log_out_that_cannot_be_noted_is_none(self, alice, server):
        with client_with(server, begin(alice).token) as client:
            with without_the_log():
                failed = client.post("/api/users/logout")
            again = client.post("/api/users/logout")

        assert failed.status_code >= 500
        assert again.status_code == 200
        assert [action for action, *_ in noted()] == ["logged_in", "logged_out"]

    def test_a_refresh_token_that_comes_twice_is_noted_once(self, alice, anonymous):
        refresh = begin(alice).refresh
        for _ in range(4):
            anonymous.post("/api/users/token/refresh", json={"refresh": refresh})

        entry = AuditEntry.objects.get(action="logged_out")
        assert entry.detail == "a refresh token came a second time"

    def test_a_new_password_and_a_wrong_one_are_noted(self, as_alice, alice):
        path = "/api/users/password"
        wrong = {"password": "wrong", "new_password": NEW}
        as_alice.post(path, json=wrong)
        right = {"password": PASSWORD, "new_password": NEW}
        as_alice.post(path, json=right).raise_for_status()

        mine = (alice.pk, "accounts.user", str(alice.pk))
        assert noted() == [
            ("log_in_failed", *mine),
            ("password_set", *mine),
            ("logged_in", *mine),
        ]

    def test_keys_are_noted_and_not_shown(self, as_alice, alice):
        body = {"name": "Script", "scopes": ["chat"]}
        made = as_alice.post("/api/users/keys", json=body).json()
        as_alice.delete(f"/api/users/keys/{made['key_id']}").raise_for_status()
        conversation = as_alice.conversation(api_key="sk-alices-own-key")
        for key in ("sk-alices-next-key", "", ""):
            path = f"/api/conversations/{conversation}"
            as_alice.patch(path, json={"api_key": key}).raise_for_status()

        personal = (alice.pk, "accounts.apikey", made["key_id"])
        stored = (alice.pk, "conversations.conversation", str(conversation))
        assert noted() == [
            ("key_set", *personal),
            ("key_ended", *personal),
            ("key_set", *stored),
            ("key_set", *stored),
            ("key_ended", *stored),
        ]
        assert "alices" not in str(list(AuditEntry.objects.values()))
        assert made["key"] not in str(list(AuditEntry.objects.values()))

    def test_deletions_are_noted(self, as_alice, alice):
        conversation = as_alice.conversation()
        as_alice.post(f"/api/conversations/del/{conversation}").raise_for_status()
        base = as_alice.post("/api/rag/kb/create", json={"kb_name": "Law"}).json()
        given = {"file": ("a.txt", b"Swallows fly south.")}
        uploaded = as_alice.post(
            "/api/rag/doc/upload", data={"kb_id": base["kb_id"]}, files=given
        ).json()
        document = {"kb_id": base["kb_id"], "doc_id": uploaded["doc_id"]}
        as_alice.post("/api/rag/doc/delete", json=document).raise_for_status()
        gone = {"kb_id": base["kb_id"]}
        as_alice.post("/api/rag/kb/delete", json=gone).raise_for_status()

        assert noted(action="deleted") == [
            ("deleted", alice.pk, "conversations.conversation", str(conversation)),
            ("deleted", alice.pk, "rag.document", uploaded["doc_id"]),
            ("deleted", alice.pk, "rag.knowledgebase", base["kb_id"]),
        ]

    def test_what_a_deleted_account_did_stays_under_its_id(self, as_alice, alice):
        log_in(as_alice)
        body = {"password": PASSWORD}
        as_alice.request("DELETE", "/api/users/me", json=body).raise_for_status()

        mine = (alice.pk, "accounts.user", str(alice.pk))
        assert noted() == [("logged_in", *mine), ("deleted", *mine)]
        assert "alice" not in str(list(AuditEntry.objects.values()))

    def test_an_answer_costs_the_log_nothing(self, as_alice):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi").raise_for_status()

        assert noted() == []


class TestWhatAdministratorsDo:
    def test_their_log_in_is_noted_and_so_is_one_that_may_not_enter(self, root):
        make_user("alice")
        browser = Browser(headers={"host": "localhost"})
        for name in ("alice", "root"):
            body = {"username": name, "password": PASSWORD}
            browser.post("/admin/login/?next=/admin/", body)

        actions = [row[0] for row in noted()]
        assert actions == ["role_changed", "log_in_failed", "logged_in"]

    def test_roles_and_passwords_are_noted(self, browser, root):
        alice = make_user("alice")
        page = f"/admin/accounts/user/{alice.pk}"
        body = {"username": "alice", "is_active": "on", "is_staff": "on"}
        assert browser.post(f"{page}/change/", body).status_code == 302
        body = {"password1": NEW, "password2": NEW, "usable_password": "true"}
        assert browser.post(f"{page}/password/", body).status_code == 302
        # One that is refused leaves no trace.
        body["password2"] = "another"
        assert browser.post(f"{page}/password/", body).status_code == 200

        his = (root.pk, "accounts.user", str(alice.pk))
        assert noted(object_id=str(alice.pk)) == [
            ("role_changed", *his),
            ("password_set", *his),
        ]
        assert AuditEntry.objects.filter(detail="is_staff: yes").count() == 1

    def test_a_password_of_their_own_is_noted_and_so_is_a_wrong_one(
        self, browser, root
    ):
        body = {"new_password1": NEW, "new_password2": NEW}
        page = "/admin/password_change/"
        refused = browser.post(page, {**body, "old_password": "wrong"})
        changed = browser.post(page, {**body, "old_password": PASSWORD})

        assert (refused.status_code, changed.status_code) == (200, 302)
        assert b"old password was entered incorrectly" in refused.content
        assert browser.get(changed.headers["location"]).status_code == 200
        mine = (root.pk, "accounts.user", str(root.pk))
        assert noted(actor_id=root.pk) == [
            ("log_in_failed", *mine),
            ("password_set", *mine),
        ]

    @pytest.mark.parametrize(
        ("action", "said"),
        [("end_tokens", "tokens_ended"), ("delete_selected", "deleted")],
    )
    def test_what_is_done_to_several_is_noted_of_each(
        self, browser, root, action, said
    ):
        ids = [str(make_user(name).pk) for name in ("alice", "mallory")]
        body = {"action": action, "_selected_action": ids, "post": "yes"}
        browser.post("/admin/accounts/user/", body)

        assert sorted(noted(action=said)) == [
            (said, root.pk, "accounts.user", pk) for pk in sorted(ids)
        ]

    @pytest.mark.parametrize("several", [True, False])
    def test_the_end_of_a_users_key_is_noted(self, browser, root, several):
        key, _ = make_key(make_user("alice"), "chat")
        path = "/admin/accounts/apikey/"
        body = {"action": "delete_selected", "_selected_action": str(key.pk)}
        page = path if several else f"{path}{key.pk}/delete/"
        assert browser.post(page, {**body, "post": "yes"}).status_code == 302

        said = ("key_ended", root.pk, "accounts.apikey", str(key.pk))
        assert noted(action="key_ended") == [said]


class TestCommands:
    def test_what_they_do_is_noted_as_nobodys(self, alice, monkeypatch):
        monkeypatch.setattr("getpass.getpass", lambda prompt="": NEW)
        call_command("changepassword", "alice", stdout=StringIO())
        call_command("delete_user", "alice", stdout=StringIO())

        of_alice = (None, "accounts.user", str(alice.pk))
        assert noted() == [("password_set", *of_alice), ("deleted", *of_alice)]

    def test_a_superuser_is_noted(self, database, monkeypatch):
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
        call_command(
            "createsuperuser", "--noinput", username="root", email="", stdout=StringIO()
        )

        assert AuditEntry.objects.get().detail == "is_superuser: yes"


class TestAppendOnly:
    @pytest.fixture
    def entry(self, database):
        user = make_user("alice")
        audit.record(audit.Action.EXPORTED, by=user.pk, on=user)
        return AuditEntry.objects.get()

    def test_the_orm_refuses(self, entry):
        every = AuditEntry.objects.all()
        entry.detail = "nothing happened"
        attempts = [
            lambda: every.update(detail=""),
            lambda: every.filter(pk=entry.pk).delete(),
            lambda: every.bulk_update([entry], ["detail"]),
            lambda: every.update_or_create(pk=entry.pk, defaults={"detail": ""}),
            entry.save,
            entry.delete,
        ]
        for attempt in attempts:
            with pytest.raises(TypeError):
                attempt()

        assert AuditEntry.objects.get().detail == ""

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE accounts_auditentry SET detail = ''",
            "DELETE FROM accounts_auditentry",
        ],
    )
    def test_the_database_refuses(self, entry, statement):
        with pytest.raises(DatabaseError, match="append-only"):
            connection.cursor().execute(statement)

    def test_what_is_old_can_be_forgotten(self, entry):
        old = AuditEntry.of("exported", by=1, on=None, detail="")
        old.at = timezone.now() - timedelta(days=31)
        old.save()
        said = StringIO()
        call_command("prune_audit_log", "--older-than", "30d", "--dry-run", stdout=said)
        assert AuditEntry.objects.count() == 2
        for _ in range(2):
            call_command("prune_audit_log", "--older-than", "30d", stdout=said)

        assert AuditEntry.objects.get() == entry
        assert said.getvalue().split(".\n")[:3] == [
            "1 entries would be removed",
            "1 entries were removed",
            "0 entries were removed",
        ]

    def test_what_the_database_may_not_hold_for_old_is_left_to_the_next_time(
        self, entry
    ):
        """Its clock may be another, and on SQLite it counts whole seconds."""
        for milliseconds in range(0, 1000, 50):
            old = AuditEntry.of("exported", by=1, on=None, detail="")
            old.at = timezone.now() - timedelta(days=30, milliseconds=milliseconds)
            old.save()

        call_command("prune_audit_log", "--older-than", "30d", stdout=StringIO())

        assert AuditEntry.objects.count() == 21

    def test_what_is_recent_cannot(self, entry):
        with pytest.raises(CommandError, match="30d or more"):
            call_command("prune_audit_log", "--older-than", "29d")


class TestFailuresAreBounded:
    def test_of_an_account(self, alice):
        for _ in range(audit.FAILURES_OF_AN_ACCOUNT + 5):
            audit.record_failure(username="Alice")

        rows = AuditEntry.objects.order_by("pk")
        assert rows.count() == audit.FAILURES_OF_AN_ACCOUNT
        assert [row.detail for row in rows][-2:] == [
            "",
            "no more are noted within the hour",
        ]

    def test_of_no_account_without_hiding_those_of_one(self, alice):
        for number in range(audit.FAILURES_OF_NO_ACCOUNT + 5):
            audit.record_failure(username=f"nobody-{number}")
        audit.record_failure(username="alice")

        assert AuditEntry.objects.count() == audit.FAILURES_OF_NO_ACCOUNT + 1
        assert noted()[-1][3] == str(alice.pk)


def test_an_api_key_acts_as_its_owner(server, alice):
    _, text = make_key(alice, "chat")
    with client_with(server, text) as client:
        conversation = client.conversation()
        client.post(f"/api/conversations/del/{conversation}").raise_for_status()

    assert noted(action="deleted")[0][1] == alice.pk


class TestInTheAdmin:
    LOG = "/admin/accounts/auditentry/"

    def test_it_is_searched_by_name_and_cannot_be_changed(self, browser, root):
        for name in ("alice", "mallory"):
            user = make_user(name)
            audit.record(audit.Action.EXPORTED, by=user.pk, on=user)
        entry = AuditEntry.objects.get(actor_id=user.pk)

        shown = browser.get(self.LOG, {"q": "Mallory"}).content.decode()
        assert "mallory" in shown
        assert "alice" not in shown
        for deed in ("change", "delete"):
            body = {"post": "yes", "detail": "x", "action": "viewed"}
            path = f"{self.LOG}{entry.pk}/{deed}/"
            assert browser.post(path, body).status_code == 403
        assert browser.get(f"{self.LOG}add/").status_code == 403
        body = {"action": "delete_selected", "_selected_action": str(entry.pk)}
        browser.post(self.LOG, {**body, "post": "yes"})
        assert AuditEntry.objects.filter(pk=entry.pk).exists()
