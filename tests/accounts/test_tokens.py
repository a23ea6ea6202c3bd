"""What a bearer token must be, and what ends it."""

import base64
import json
import time
from io import StringIO
from unittest import mock
from uuid import uuid4

import jwt
import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from accounts.models import RevokedToken, User
from accounts.tokens import issue
from tests.conftest import PASSWORD

PATH = "/api/conversations/list"
PUBLISHED_SECRET = "S3cureK3y#2024!AIsafety"
ABSENT = object()


def with_token(client, token):
    return client.get(PATH, headers={"Authorization": f"Bearer {token}"})


def claims(user, **changes):
    """What a token of `user` says, with `changes`; ABSENT leaves a claim out."""
    now = int(time.time())
    said = {
        "token_type": "access",
        "iat": now,
        "exp": now + 3600,
        "jti": uuid4().hex,
        "user_id": str(user.pk),
        "ver": user.token_version,
        **changes,
    }
    return {name: value for name, value in said.items() if value is not ABSENT}


@pytest.fixture
def sign(settings):
    """Sign claims as the server does, or otherwise."""

    def signed(payload, *, key="", algorithm="HS256", headers=None):
        return jwt.encode(payload, key or settings.KEYS.jwt, algorithm, headers)

    return signed


def assert_refused(response):
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="llmbackend"'
    body = response.json()
    assert body.pop("request_id")
    assert body == {
        "error": "A valid bearer token is required.",
        "code": "unauthorized",
    }


def test_a_token_made_like_the_servers_own_is_taken(anonymous, alice, sign):
    """Else the refusals below would prove nothing."""
    assert with_token(anonymous, sign(claims(alice))).status_code == 200


def test_an_issued_token_says_who_until_when_and_nothing_private(alice, settings):
    token = issue(alice)

    said = jwt.decode(token, options={"verify_signature": False})
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    expected = {"token_type", "exp", "iat", "jti", "user_id", "ver", "joined"}
    assert set(said) == expected
    assert said["exp"] - said["iat"] == settings.CONFIG.jwt.lifetime_hours * 3600


def test_no_token_is_a_401(anonymous):
    assert_refused(anonymous.get(PATH))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic YWxpY2U6cGFzc3dvcmQ=",
        "Bearer not-a-token",
        "Bearer a.b.c",
        "Bearer a.b.c d.e.f",
        "Bearer ...",
        "Bearer {}.{}.{}",
        "Bearer " + "A" * 20_000,
        "Token x",
    ],
    ids=lambda header: header[:30] or "empty",
)
def test_a_malformed_header_is_a_401(anonymous, header):
    assert_refused(anonymous.get(PATH, headers={"Authorization": header}))


def test_a_header_with_bytes_beyond_ascii_is_a_401(anonymous):
    headers = [(b"Authorization", b"Bearer \xe9\xff.\xe9.\xe9")]

    assert_refused(anonymous.get(PATH, headers=headers))


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(anonymous, alice, scheme):
    headers = {"Authorization": f"{scheme} {issue(alice)}"}

    assert anonymous.get(PATH, headers=headers).status_code == 200


def test_a_token_in_the_address_is_not_looked_at(anonymous, alice):
    assert_refused(anonymous.get(PATH, params={"token": issue(alice)}))


def test_an_expired_token_is_a_401(anonymous, alice, sign):
    assert_refused(with_token(anonymous, sign(claims(alice, exp=time.time() - 1))))


def test_a_token_of_a_clock_that_is_somewhat_ahead_is_taken(anonymous, alice, sign):
    """Another machine's, or this one's before it was set back."""
    token = sign(claims(alice, iat=int(time.time()) + 60))

    assert with_token(anonymous, token).status_code == 200


def test_a_token_from_the_future_is_a_401(anonymous, alice, sign):
    ahead = time.time() + 1800

    assert_refused(with_token(anonymous, sign(claims(alice, iat=ahead))))
    assert_refused(with_token(anonymous, sign(claims(alice, nbf=ahead))))


def test_a_token_signed_with_another_key_is_a_401(anonymous, alice, sign):
    assert_refused(with_token(anonymous, sign(claims(alice), key="k" * 48)))


def test_a_token_signed_with_djangos_or_the_field_key_is_a_401(
    anonymous, alice, sign, settings
):
    for key in (settings.SECRET_KEY, *settings.KEYS.field):
        assert_refused(with_token(anonymous, sign(claims(alice), key=key)))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_token_signed_with_the_published_secret_is_a_401(anonymous, alice, sign):
    forged = sign(claims(alice), key=PUBLISHED_SECRET)

    assert_refused(with_token(anonymous, forged))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_is_a_401_even_with_the_right_key(
    anonymous, alice, sign, algorithm
):
    forged = sign(claims(alice), algorithm=algorithm)

    assert_refused(with_token(anonymous, forged))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_an_unsigned_token_is_a_401(anonymous, alice, algorithm, signature):
    parts = [{"alg": algorithm, "typ": "JWT"}, claims(alice)]
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in parts
    ]

    assert_refused(with_token(anonymous, ".".join([*encoded, signature])))


def test_a_changed_token_is_a_401(anonymous, alice, mallory):
    hers, his = issue(alice).split("."), issue(mallory).split(".")

    assert_refused(with_token(anonymous, ".".join([his[0], hers[1], his[2]])))


@pytest.mark.parametrize("claim", ["user_id", "ver", "exp", "jti", "token_type"])
def test_a_token_that_lacks_a_claim_is_a_401(anonymous, alice, sign, claim):
    lacking = sign(claims(alice, **{claim: ABSENT}))

    assert_refused(with_token(anonymous, lacking))


@pytest.mark.parametrize(
    "change",
    [
        {"token_type": "refresh"},
        {"token_type": None},
        {"user_id": None},
        {"user_id": "alice"},
        {"user_id": [1]},
        {"user_id": "0"},
        {"user_id": "-1"},
        {"user_id": str(10**40)},
        {"user_id": float("inf")},
        {"ver": None},
        {"ver": "new"},
        {"ver": 10**40},
        {"ver": 1},
        {"joined": 1},
        {"joined": [1]},
        {"exp": "tomorrow"},
        {"exp": float("inf")},
        {"exp": float("nan")},
    ],
    ids=str,
)
def test_a_token_with_a_senseless_claim_is_a_401(anonymous, alice, sign, change):
    assert_refused(with_token(anonymous, sign(claims(alice, **change))))


def test_a_deleted_users_token_is_a_401_at_once(as_alice, alice):
    assert as_alice.get(PATH).status_code == 200

    alice.delete()

    assert_refused(as_alice.get(PATH))


def test_an_inactive_users_token_is_a_401_at_once(as_alice, alice):
    assert as_alice.get(PATH).status_code == 200

    User.objects.filter(pk=alice.pk).update(is_active=False)

    assert_refused(as_alice.get(PATH))


def test_all_tokens_end_when_the_token_version_is_raised(as_alice, alice, anonymous):
    assert as_alice.get(PATH).status_code == 200

    User.objects.filter(pk=alice.pk).update(token_version=1)

    assert_refused(as_alice.get(PATH))
    alice.refresh_from_db()
    assert with_token(anonymous, issue(alice)).status_code == 200


def test_a_revoked_token_ends_alone(anonymous, alice):
    ended, other = issue(alice), issue(alice)
    assert with_token(anonymous, ended).status_code == 200

    jti = jwt.decode(ended, options={"verify_signature": False})["jti"]
    RevokedToken.objects.create(jti=jti, expires_at=timezone.now())

    assert_refused(with_token(anonymous, ended))
    assert with_token(anonymous, other).status_code == 200


def test_a_token_whose_signature_was_checked_before_still_expires(
    anonymous, alice, sign
):
    ends = int(time.time()) + 60
    token = sign(claims(alice, exp=ends))
    assert with_token(anonymous, token).status_code == 200

    with mock.patch("time.time", return_value=ends + 0.0):
        response = with_token(anonymous, token)

    assert_refused(response)


def test_a_new_password_ends_the_tokens_of_the_old_one(as_alice, alice):
    assert as_alice.get(PATH).status_code == 200

    alice.set_password("another fine password")
    alice.save()

    assert_refused(as_alice.get(PATH))


@pytest.mark.parametrize("name", ["alice", "ALICE"])
def test_the_changepassword_command_ends_the_tokens_too(
    as_alice, alice, monkeypatch, name
):
    monkeypatch.setattr("getpass.getpass", lambda prompt: "another fine password")

    call_command("changepassword", name, stdout=StringIO())

    assert_refused(as_alice.get(PATH))


def test_saving_a_user_otherwise_ends_no_token(as_alice, alice):
    alice.first_name = "Alice"
    alice.save()

    assert as_alice.get(PATH).status_code == 200


def test_switching_a_user_off_and_on_in_the_admin_ends_the_tokens(as_alice, alice):
    root = User.objects.create_superuser("root", password=PASSWORD)
    admin_client = Client()
    admin_client.force_login(root)
    page = f"/admin/accounts/user/{alice.pk}/change/"
    form = {"username": "alice"}

    off = admin_client.post(page, form)
    on = admin_client.post(page, {**form, "is_active": "on"})

    assert off.status_code == on.status_code == 302
    alice.refresh_from_db()
    assert alice.is_active
    assert_refused(as_alice.get(PATH))
    assert alice.check_password(PASSWORD)


def test_no_token_appears_in_a_log_line(as_alice, anonymous, sign, alice, caplog):
    caplog.set_level("DEBUG")
    good, forged = issue(alice), sign(claims(alice), key="k" * 48)

    with_token(anonymous, good)
    with_token(anonymous, forged)

    assert good not in caplog.text
    assert forged not in caplog.text
