"""POST /api/users/login."""

from dataclasses import replace

import bcrypt
import pytest

from accounts.models import User
from tests.conftest import PASSWORD

PATH = "/api/users/login"


def login(client, username="alice", password=PASSWORD):
    return client.post(PATH, json={"username": username, "password": password})


@pytest.fixture
def hashes(monkeypatch):
    """The costs of the password hashes computed from now on."""
    costs = []

    def counted(password, salt):
        costs.append(int(salt.split(b"$")[2]))
        return original(password, salt)

    original = bcrypt.hashpw
    monkeypatch.setattr(bcrypt, "hashpw", counted)
    return costs


def test_answers_with_a_token_that_opens_the_users_routes(alice, anonymous):
    response = login(anonymous)

    assert response.status_code == 200
    assert list(response.json()) == ["token", "refresh"]
    headers = {"Authorization": f"Bearer {response.json()['token']}"}
    listed = anonymous.get("/api/conversations/list", headers=headers)
    assert listed.status_code == 200


def test_a_trailing_slash_makes_no_difference(alice, anonymous):
    response = anonymous.post(
        f"{PATH}/", json={"username": "alice", "password": PASSWORD}
    )

    assert response.status_code == 200


@pytest.mark.parametrize("name", ["ALICE", "aLiCe", "Ａlice"])
def test_the_name_may_be_written_in_any_case_and_form(alice, anonymous, name):
    assert login(anonymous, username=name).status_code == 200


def test_two_log_ins_give_two_tokens_that_both_work(alice, anonymous):
    tokens = {login(anonymous).json()["token"] for _ in range(2)}

    assert len(tokens) == 2
    for token in tokens:
        headers = {"Authorization": f"Bearer {token}"}
        listed = anonymous.get("/api/conversations/list", headers=headers)
        assert listed.status_code == 200


def test_unknown_name_wrong_password_and_inactive_user_are_told_alike(alice, anonymous):
    User.objects.create_user("ina", password=PASSWORD, is_active=False)

    answers = [
        login(anonymous, username="nobody"),
        login(anonymous, password="wrong password"),
        login(anonymous, username="ina"),
        login(anonymous, username="ina", password="wrong password"),
    ]

    assert [answer.status_code for answer in answers] == [401] * 4
    bodies = [answer.json() for answer in answers]
    for body in bodies:
        assert body.pop("request_id")
    assert (
        bodies
        == [{"error": "Invalid username or password.", "code": "invalid_credentials"}]
        * 4
    )


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("nobody", PASSWORD),
        ("alice", "wrong password"),
        ("ina", PASSWORD),
        ("ina", "wrong password"),
    ],
)
def test_every_refusal_costs_exactly_one_hash(
    alice, anonymous, hashes, settings, username, password
):
    User.objects.create_user("ina", password=PASSWORD, is_active=False)
    hashes.clear()

    login(anonymous, username=username, password=password)

    assert hashes == [settings.CONFIG.accounts.bcrypt_cost]


@pytest.mark.parametrize("username", ["nobody", "alice"])
def test_a_refusal_costs_the_same_after_the_cost_was_raised(
    alice, anonymous, hashes, settings, username
):
    accounts = replace(settings.CONFIG.accounts, bcrypt_cost=6)
    settings.CONFIG = replace(settings.CONFIG, accounts=accounts)

    login(anonymous, username=username, password="wrong password")

    assert sum(2**cost for cost in hashes) == 2**6


def test_a_log_in_after_the_cost_was_raised_stores_the_password_anew(
    alice, anonymous, settings
):
    accounts = replace(settings.CONFIG.accounts, bcrypt_cost=6)
    settings.CONFIG = replace(settings.CONFIG, accounts=accounts)

    token = login(anonymous).json()["token"]

    alice.refresh_from_db()
    assert alice.password.startswith("bcrypt_sha256$$2b$06$")
    headers = {"Authorization": f"Bearer {token}"}
    listed = anonymous.get("/api/conversations/list", headers=headers)
    assert listed.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        "{}",
        "{",
        "",
        '{"username": "alice"}',
        '{"username": null, "password": null}',
        '{"username": "alice", "password": 12345678}',
        '{"username": ["alice"], "password": "correct horse battery"}',
        '{"username": "al\\u0000ice", "password": "correct horse battery"}',
        '{"username": "\\ud800", "password": "correct horse battery"}',
        '{"username": "alice", "password": "\\udfff"}',
    ],
)
def test_a_body_of_another_shape_is_a_400_in_the_error_body(anonymous, body):
    response = anonymous.post(PATH, content=body)

    assert response.status_code == 400
    assert set(response.json()) == {"error", "code", "request_id"}
    assert response.json()["code"] == "invalid"


@pytest.mark.parametrize("username", [" alice", "alice ", "alice'--", "x" * 1000])
def test_what_is_nobodys_name_is_a_401(alice, anonymous, username):
    assert login(anonymous, username=username).status_code == 401


def test_a_password_too_long_to_be_one_is_not_hashed(alice, anonymous, hashes):
    response = login(anonymous, password="x" * 10_001)

    assert response.status_code == 400
    assert hashes == []


def test_neither_password_nor_token_appears_in_a_log_line(alice, anonymous, caplog):
    caplog.set_level("DEBUG")

    right = login(anonymous)
    wrong = login(anonymous, password="canary-71 wrong password")

    assert (right.status_code, wrong.status_code) == (200, 401)
    assert PASSWORD not in caplog.text
    assert "canary-71" not in caplog.text + wrong.text
    assert right.json()["token"] not in caplog.text
    assert alice.password not in caplog.text + right.text + wrong.text


def test_a_get_is_a_405_in_the_error_body(anonymous):
    response = anonymous.get(PATH)

    assert response.status_code == 405
    assert response.json()["code"] == "method_not_allowed"
