"""Accounts in the admin."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client as Browser

from accounts.limits import NAMES
from accounts.models import AuditEntry, User
from tests.conftest import PASSWORD, client_of, make_user

USERS = "/admin/accounts/user/"
NEW = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}


@pytest.fixture
def browser(server):
    """A browser in which an administrator has logged in."""
    root = User.objects.create_superuser("root", password=PASSWORD)
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


def test_an_account_is_made_that_can_log_in(browser, anonymous):
    response = browser.post(f"{USERS}add/", {"username": "ünal", **NEW})

    assert response.status_code == 302
    body = {"username": "Ünal", "password": PASSWORD}
    assert anonymous.post("/api/users/login", json=body).status_code == 200


@pytest.mark.parametrize("name", ["ünal", "ÜNAL"])
def test_a_name_that_is_taken_is_refused_on_the_page(browser, name):
    make_user("ünal")

    response = browser.post(f"{USERS}add/", {"username": name, **NEW})

    assert response.status_code == 200
    assert "already" in response.content.decode()
    assert User.objects.count() == 2


def test_users_are_deactivated_but_not_oneself(browser, anonymous):
    alice, root = make_user("alice"), User.objects.get(username="root")
    body = {"username": "alice", "password": PASSWORD}
    token = anonymous.post("/api/users/login", json=body).json()["token"]
    ids = [str(alice.pk), str(root.pk)]

    asked = {"action": "deactivate", "_selected_action": ids}
    page = browser.post(USERS, asked, follow=True).content.decode()

    assert "1 user was deactivated." in page
    active = dict(User.objects.values_list("username", "is_active"))
    assert active == {"alice": False, "root": True}
    headers = {"Authorization": f"Bearer {token}"}
    assert anonymous.get("/api/users/me", headers=headers).status_code == 401
    noted = AuditEntry.objects.get(action="role_changed", object_id=str(alice.pk))
    assert (noted.actor_id, noted.detail) == (root.pk, "is_active: no")


@pytest.mark.parametrize("typed", ["Ünal Weiß", "ÜNAL WEISS", "Ｎal", "alice@Example"])
def test_a_user_is_found_however_the_name_is_typed(browser, typed):
    unal = make_user("Ünal Weiß")
    unal.email = "alice@example.com"
    unal.save()
    make_user("bob")

    page = browser.get(USERS, {"q": typed})

    assert [user.pk for user in page.context["cl"].result_list] == [unal.pk]


@pytest.mark.parametrize("by_herself", [True, False])
def test_no_name_is_left_of_an_account_that_was_changed_and_is_deleted(
    browser, as_alice, alice, by_herself
):
    made = as_alice.post(
        "/api/users/keys", json={"name": "Alice's", "scopes": ["chat"]}
    )
    key = f"/admin/accounts/apikey/{made.json()['key_id']}/delete/"
    assert browser.post(key, {"post": "yes"}).status_code == 302
    page = f"{USERS}{alice.pk}/change/"
    form = browser.get(page).context["adminform"].form
    kept = {name: value for name, value in form.initial.items() if value}
    assert browser.post(page, {**kept, "first_name": "A."}).status_code == 302
    assert "alice" in names_noted()

    if by_herself:
        as_alice.request("DELETE", "/api/users/me", json={"password": PASSWORD})
    else:
        browser.post(f"{USERS}{alice.pk}/delete/", {"post": "yes"})

    assert not User.objects.filter(pk=alice.pk).exists()
    assert names_noted() == []
    assert AuditEntry.objects.filter(action="deleted", object_id=str(alice.pk)).exists()


def names_noted():
    """Whom and what Django's admin keeps names of."""
    return list(LogEntry.objects.values_list("object_repr", flat=True))


def test_nobodys_password_is_a_404(browser):
    assert browser.get(f"{USERS}nobody/password/").status_code == 404
    assert browser.get(f"{USERS}99/password/").status_code == 404


def test_users_are_listed_with_what_they_have(browser, server, anonymous):
    alice = make_user("alice")
    with client_of(server, alice) as client:
        for _ in range(3):
            client.conversation()
        for name in ("Law", "Art"):
            client.post("/api/rag/kb/create", json={"kb_name": name})
        client.post("/api/users/logout_all")

    page = browser.get(f"{USERS}?q=alice").content.decode()

    for column, count in (
        ("tokens_ended", 1),
        ("conversation_count", 3),
        ("base_count", 2),
    ):
        assert f'<td class="field-{column}">{count}</td>' in page


class TestLimits:
    """Of one user, on the page of that user."""

    def saved(self, browser, user, **limits):
        """The page's answer when it is sent back with these fields changed."""
        page = f"{USERS}{user.pk}/change/"
        form = browser.get(page).context["adminform"].form
        given = {
            name: form.get_initial_for_field(field, name)
            for name, field in form.fields.items()
        }
        joined = given.pop("date_joined", None) or user.date_joined
        kept = {name: value for name, value in given.items() if value}
        dates = {"date_joined_0": joined.date(), "date_joined_1": joined.time()}
        return browser.post(page, {**kept, **dates, **limits})

    def test_they_are_set_and_emptied(self, browser):
        ann = make_user("ann")

        for most in (7, 0, None):
            given = {} if most is None else {"max_tokens_per_day": most}
            assert self.saved(browser, ann, **given).status_code == 302
            ann.refresh_from_db()
            assert ann.max_tokens_per_day == most

    def test_a_number_below_nought_is_refused(self, browser):
        ann = make_user("ann")

        assert self.saved(browser, ann, max_documents=-1).status_code == 200

    def test_each_is_there_and_says_what_empty_means(self, browser):
        page = browser.get(f"{USERS}{make_user('ann').pk}/change/").content.decode()

        for name in NAMES:
            assert f'name="max_{name}"' in page
        assert page.count("0: no limit.") == len(NAMES)


def test_a_password_that_is_taken_away_ends_the_tokens(browser, server):
    alice = make_user("alice")
    with client_of(server, alice) as client:
        assert client.get("/api/users/me").status_code == 200

        page = f"{USERS}{alice.pk}/password/"
        answer = browser.post(page, {"usable_password": "false", "unset-password": ""})

        assert answer.status_code == 302
        assert not User.objects.get(pk=alice.pk).has_usable_password()
        assert client.get("/api/users/me").status_code == 401
