"""POST /api/users/register."""

import json
import socket
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from accounts.models import User

PATH = "/api/users/register"
PASSWORD = "SecureP@ssw0rd!"


def register(client, username="john_doe", password=PASSWORD):
    return client.post(PATH, json={"username": username, "password": password})


def test_registers_a_user_as_the_seed_documents(anonymous):
    response = register(anonymous)

    assert response.status_code == 201
    assert response.json() == {"message": "User registered successfully"}
    assert User.objects.get().username == "john_doe"


def test_a_trailing_slash_makes_no_difference(anonymous):
    response = anonymous.post(
        f"{PATH}/", json={"username": "john_doe", "password": PASSWORD}
    )

    assert response.status_code == 201


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("alice", "alice"),
        ("alice", "ALICE"),
        ("Ünal", "üNAL"),
        ("straße", "STRASSE"),
        ("ΐ", "Ϊ́"),
        ("Ａlice", "alice"),
        ("é", "e\u0301"),
        ("张\u3000三", "张 三"),
    ],
)
def test_a_name_is_taken_in_whatever_case_and_form(anonymous, first, second):
    register(anonymous, username=first)

    response = register(anonymous, username=second)

    assert response.status_code == 400
    assert response.json()["code"] == "username_taken"
    assert response.json()["error"] == "This username is already taken."
    assert User.objects.count() == 1


def test_a_taken_name_answers_the_same_for_any_password(anonymous):
    register(anonymous)

    again = register(anonymous, password="another fine password")

    assert again.status_code == 400
    assert again.json()["code"] == "username_taken"


@pytest.mark.parametrize("length", [8, 64, 72, 73, 80, 128])
def test_a_password_of_8_to_128_characters_can_be_used(anonymous, length):
    password = ("x1!" * 43)[:length]

    assert register(anonymous, password=password).status_code == 201

    body = {"username": "john_doe", "password": password}
    assert anonymous.post("/api/users/login", json=body).status_code == 200
    body["password"] = password[:-1] + "?"
    assert anonymous.post("/api/users/login", json=body).status_code == 401


def test_a_password_beyond_72_bytes_counts_to_its_last_character(anonymous):
    password = "密" * 127 + "码"
    register(anonymous, password=password)

    body = {"username": "john_doe", "password": "密" * 128}

    assert anonymous.post("/api/users/login", json=body).status_code == 401


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        ("", "password: This field may not be blank."),
        (
            "x1!x1!x",
            "password: This password is too short. "
            "It must contain at least 8 characters.",
        ),
        ("x" * 129, "password: A password has at most 128 characters."),
        ("password123", "password: This password is too common."),
        ("PassWord123", "password: This password is too common."),
    ],
)
def test_a_weak_password_is_refused_with_the_reason(anonymous, password, complaint):
    response = register(anonymous, password=password)

    assert response.status_code == 400
    assert response.json()["error"] == complaint
    assert response.json()["code"] == "invalid"
    assert not User.objects.exists()


@pytest.mark.parametrize("username", ["x", "名", "a b", "o'hara", "x" * 150])
def test_a_username_of_1_to_150_characters_is_taken_as_it_is(anonymous, username):
    response = register(anonymous, username=username)

    assert response.status_code == 201
    assert User.objects.get().username == username


@pytest.mark.parametrize(
    "username",
    [
        "",
        " ",
        " john",
        "john ",
        "john\n",
        "jo\thn",
        "jo\0hn",
        "jo\u200bhn",
        "john\u00a0",
        "\u00a8john",  # Normalizing makes it begin with a blank.
        "\ud800",
        "x" * 151,
        "\ufdfa" * 150,  # Normalizing makes 18 characters of each.
    ],
)
def test_a_username_that_cannot_be_read_back_is_refused(anonymous, username):
    raw = json.dumps({"username": username, "password": PASSWORD})

    response = anonymous.post(PATH, content=raw)

    assert response.status_code == 400
    assert response.json()["code"] == "invalid"
    assert not User.objects.exists()


@pytest.mark.parametrize("password", ["\ud800 lone half", "nul\0 nul\0 nul"])
def test_a_password_no_encoder_can_write_is_refused(anonymous, password):
    raw = json.dumps({"username": "john_doe", "password": password})

    assert anonymous.post(PATH, content=raw).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        "7",
        '"text"',
        "{}",
        '{"username": "john_doe"}',
        '{"password": "SecureP@ssw0rd!"}',
        '{"username": null, "password": "SecureP@ssw0rd!"}',
        '{"username": "john_doe", "password": null}',
        '{"username": 12345678, "password": "SecureP@ssw0rd!"}',
        '{"username": "john_doe", "password": 1234567890123}',
        '{"username": "john_doe", "password": true}',
        '{"username": ["john_doe"], "password": "SecureP@ssw0rd!"}',
        '{"username": {"$ne": 1}, "password": "SecureP@ssw0rd!"}',
        '{"username": "john_doe", "password": "SecureP@ssw0rd!"',
        "username=john_doe&password=SecureP%40ssw0rd",
        "",
        "{" * 200_000,
        "[" * 200_000,
        "1" * 5000,
    ],
    ids=lambda body: body[:40],
)
def test_a_body_of_another_shape_is_a_400_in_the_error_body(anonymous, body):
    response = anonymous.post(PATH, content=body)

    assert response.status_code == 400
    assert set(response.json()) == {"error", "code", "request_id"}
    assert response.json()["code"] == "invalid"
    assert not User.objects.exists()


def test_bytes_that_are_no_utf_8_are_a_400(anonymous):
    response = anonymous.post(PATH, content=b'{"username": "\xff\xfe"}')

    assert response.status_code == 400
    assert response.json()["code"] == "invalid"


def test_fields_that_mean_nothing_here_change_nothing(anonymous):
    body = {
        "username": "john_doe",
        "password": PASSWORD,
        "is_staff": True,
        "is_superuser": True,
        "token_version": 9,
    }

    response = anonymous.post(PATH, json=body)

    assert response.status_code == 201
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser, user.token_version) == (False, False, 0)


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "gar/ba;ge"],
)
def test_the_body_is_json_whatever_its_content_type_says(anonymous, content_type):
    raw = json.dumps({"username": "john_doe", "password": PASSWORD})

    response = anonymous.post(PATH, content=raw, headers={"Content-Type": content_type})

    assert response.status_code == 201


def test_the_body_needs_no_content_type(server):
    raw = json.dumps({"username": "john_doe", "password": PASSWORD})

    answer = exchange(
        server,
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n{raw}",
    )

    assert answer.startswith("HTTP/1.1 201 ")


def test_the_body_may_come_in_chunks_of_unknown_length(anonymous):
    raw = json.dumps({"username": "john_doe", "password": PASSWORD}).encode()

    response = anonymous.post(PATH, content=iter([raw[:10], raw[10:]]))

    assert response.status_code == 201


def test_the_password_is_kept_as_bcrypt_at_the_configured_cost(anonymous, settings):
    register(anonymous)

    stored = User.objects.get().password
    cost = settings.CONFIG.accounts.bcrypt_cost
    assert stored.startswith(f"bcrypt_sha256$$2b${cost:02}$")


def test_the_password_appears_in_no_log_line_and_no_answer(anonymous, caplog):
    caplog.set_level("DEBUG")
    secret = "canary-5f2c9a71 password"

    answers = [
        register(anonymous, password=secret),
        register(anonymous, password=secret),
        register(anonymous, username="", password=secret),
        register(anonymous, username="other", password=secret * 9),
    ]

    assert [answer.status_code for answer in answers] == [201, 400, 400, 400]
    told = caplog.text + "".join(answer.text for answer in answers)
    assert "canary-5f2c9a71" not in told


def exchange(server, request: str) -> str:
    """Send bytes as they are, and read to the end of the connection."""
    parts = urlsplit(server.base_url)
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        connection.sendall(request.encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return received.decode()


class TestWhereRegistrationIsClosed:
    @pytest.fixture(autouse=True)
    def closed(self, settings):
        accounts = replace(settings.CONFIG.accounts, registration="closed")
        settings.CONFIG = replace(settings.CONFIG, accounts=accounts)

    @pytest.mark.parametrize("body", [{"username": "a", "password": PASSWORD}, {}])
    def test_it_is_a_403_whatever_is_asked(self, anonymous, body):
        response = anonymous.post(PATH, json=body)

        assert response.status_code == 403
        assert response.json()["code"] == "registration_closed"
        assert response.json()["error"] == "Registration is closed on this server."
        assert not User.objects.exists()

    def test_those_who_have_an_account_log_in(self, anonymous, alice):
        body = {"username": "alice", "password": "correct horse battery"}

        assert anonymous.post("/api/users/login", json=body).status_code == 200
