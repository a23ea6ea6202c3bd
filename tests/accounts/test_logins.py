"""A log-in: renewed with its refresh token, ended alone or with all others."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import jwt
import pytest
from django.utils import timezone

from accounts.models import RevokedToken, User
from accounts.tokens import claims_of, ended_claims
from tests.conftest import PASSWORD

RENEW = "/api/users/token/refresh"
GUARDED = "/api/conversations/list"
LOG_IN_AGAIN = {
    "error": "A valid refresh token is required; log in again.",
    "code": "unauthorized",
}


def log_in(client):
    body = {"username": "alice", "password": PASSWORD}
    response = client.post("/api/users/login", json=body)
    assert response.status_code == 200
    return response.json()


def renew(client, refresh):
    return client.post(RENEW, json={"refresh": refresh})


def status_with(client, token, path=GUARDED):
    return client.get(path, headers=bearer(token)).status_code


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def said_by(token):
    return jwt.decode(token, options={"verify_signature": False})


def assert_refused(response):
    assert response.status_code == 401
    body = response.json()
    assert body.pop("request_id")
    assert body == LOG_IN_AGAIN


class TestRenewing:
    def test_gives_a_token_that_opens_the_users_routes(self, alice, anonymous):
        first = log_in(anonymous)

        response = renew(anonymous, first["refresh"])

        assert response.status_code == 200
        assert set(response.json()) == {"token", "refresh"}
        assert status_with(anonymous, response.json()["token"]) == 200
        assert status_with(anonymous, first["token"]) == 200

    def test_can_be_repeated_with_each_new_refresh_token(self, alice, anonymous):
        tokens = log_in(anonymous)

        for _ in range(3):
            response = renew(anonymous, tokens["refresh"])
            assert response.status_code == 200
            tokens = response.json()

        assert status_with(anonymous, tokens["token"]) == 200

    def test_answers_with_tokens_that_no_cache_may_keep(self, alice, anonymous):
        body = {"username": "alice", "password": PASSWORD}
        logged_in = anonymous.post("/api/users/login", json=body)

        renewed = renew(anonymous, logged_in.json()["refresh"])

        for response in (logged_in, renewed):
            assert response.headers["cache-control"] == "no-store"

    def test_a_refresh_token_lasts_30_days_from_its_own_issue(self, alice, anonymous):
        first = log_in(anonymous)["refresh"]
        second = renew(anonymous, first).json()["refresh"]

        for token in (first, second):
            said = said_by(token)
            assert said["exp"] - said["iat"] == 30 * 24 * 3600

    def test_a_refresh_token_is_no_bearer_token(self, alice, anonymous):
        assert status_with(anonymous, log_in(anonymous)["refresh"]) == 401

    def test_a_bearer_token_is_no_refresh_token(self, alice, anonymous):
        assert_refused(renew(anonymous, log_in(anonymous)["token"]))

    @pytest.mark.parametrize("token", ["x", "a.b.c", "..."])
    def test_what_is_no_token_is_a_401(self, anonymous, token):
        assert_refused(renew(anonymous, token))

    @pytest.mark.parametrize("body", [{}, {"refresh": None}, {"refresh": [1]}])
    def test_a_body_of_another_shape_is_a_400(self, anonymous, body):
        response = anonymous.post(RENEW, json=body)

        assert response.status_code == 400
        assert response.json()["code"] == "invalid"

    def test_an_expired_refresh_token_is_a_401(self, alice, anonymous, settings):
        said = said_by(log_in(anonymous)["refresh"])
        said["exp"] = int(time.time()) - 1

        assert_refused(renew(anonymous, jwt.encode(said, settings.KEYS.jwt)))

    def test_one_of_a_clock_that_is_somewhat_ahead_renews(
        self, alice, anonymous, settings
    ):
        said = said_by(log_in(anonymous)["refresh"])
        said["iat"] += 60

        renewed = renew(anonymous, jwt.encode(said, settings.KEYS.jwt))

        assert renewed.status_code == 200

    def test_a_refresh_token_signed_with_another_key_is_a_401(self, alice, anonymous):
        said = said_by(log_in(anonymous)["refresh"])

        assert_refused(renew(anonymous, jwt.encode(said, "k" * 48)))

    @pytest.mark.parametrize("change", [{"is_active": False}, {"token_version": 1}])
    def test_what_ends_an_account_or_its_tokens_ends_renewing(
        self, alice, anonymous, change
    ):
        refresh = log_in(anonymous)["refresh"]

        User.objects.filter(pk=alice.pk).update(**change)

        assert_refused(renew(anonymous, refresh))

    def test_a_deleted_users_refresh_token_is_a_401(self, alice, anonymous):
        refresh = log_in(anonymous)["refresh"]

        alice.delete()

        assert_refused(renew(anonymous, refresh))

    def test_no_token_appears_in_a_log_line(self, alice, anonymous, caplog):
        caplog.set_level("DEBUG")
        first = log_in(anonymous)

        second = renew(anonymous, first["refresh"]).json()

        for token in (*first.values(), *second.values()):
            assert token not in caplog.text


class TestARefreshTokenUsedTwice:
    def test_ends_every_token_of_its_log_in(self, alice, anonymous):
        first = log_in(anonymous)
        second = renew(anonymous, first["refresh"]).json()

        assert_refused(renew(anonymous, first["refresh"]))

        assert_refused(renew(anonymous, second["refresh"]))
        assert status_with(anonymous, first["token"]) == 401
        assert status_with(anonymous, second["token"]) == 401

    def test_ends_no_other_log_in(self, alice, anonymous):
        copied, other = log_in(anonymous), log_in(anonymous)
        renew(anonymous, copied["refresh"])

        renew(anonymous, copied["refresh"])

        assert status_with(anonymous, other["token"]) == 200
        assert renew(anonymous, other["refresh"]).status_code == 200

    def test_is_noticed_when_both_come_at_once(self, alice, anonymous):
        refresh = log_in(anonymous)["refresh"]

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: renew(anonymous, refresh), range(8)))

        won = [answer.json() for answer in answers if answer.status_code == 200]
        assert len(won) == 1
        assert status_with(anonymous, won[0]["token"]) == 401


class TestLoggingOut:
    def log_out(self, client, token, path="/api/users/logout"):
        return client.post(path, headers=bearer(token))

    def test_ends_the_token_and_its_refresh_token_at_once(self, alice, anonymous):
        tokens = log_in(anonymous)
        assert status_with(anonymous, tokens["token"]) == 200

        response = self.log_out(anonymous, tokens["token"])

        assert response.status_code == 200
        assert response.json() == {"message": "Logged out successfully"}
        assert status_with(anonymous, tokens["token"]) == 401
        assert_refused(renew(anonymous, tokens["refresh"]))

    def test_ends_a_token_that_lives_longer_than_tokens_do_now(
        self, alice, anonymous, settings
    ):
        """It was issued before jwt.lifetime_hours was made less."""
        said = said_by(log_in(anonymous)["token"])
        said["exp"] += 90 * 24 * 3600
        token = jwt.encode(said, settings.KEYS.jwt)

        assert self.log_out(anonymous, token).status_code == 200

        remembered = RevokedToken.objects.get().expires_at.timestamp()
        assert remembered >= said["exp"]

    def test_ends_what_the_log_in_was_renewed_to(self, alice, anonymous):
        first = log_in(anonymous)
        second = renew(anonymous, first["refresh"]).json()

        self.log_out(anonymous, first["token"])

        assert status_with(anonymous, second["token"]) == 401
        assert_refused(renew(anonymous, second["refresh"]))

    def test_ends_the_streams_that_any_token_of_the_log_in_opened(
        self, alice, anonymous
    ):
        first, other = log_in(anonymous), log_in(anonymous)
        second = renew(anonymous, first["refresh"]).json()
        held = {claims_of(tokens["token"]) for tokens in (first, second, other)}
        assert ended_claims(held) == set()

        self.log_out(anonymous, second["token"])

        assert ended_claims(held) == held - {claims_of(other["token"])}

    def test_leaves_the_users_other_log_ins_alone(self, alice, anonymous):
        here, there = log_in(anonymous), log_in(anonymous)

        self.log_out(anonymous, here["token"])

        assert status_with(anonymous, there["token"]) == 200

    def test_a_second_time_is_a_401(self, alice, anonymous):
        token = log_in(anonymous)["token"]
        self.log_out(anonymous, token)

        assert self.log_out(anonymous, token).status_code == 401

    def test_is_remembered_as_long_as_any_of_its_tokens_could_be_good(
        self, alice, anonymous
    ):
        tokens = log_in(anonymous)

        self.log_out(anonymous, tokens["token"])

        until = RevokedToken.objects.get().expires_at.timestamp()
        assert until >= max(said_by(token)["exp"] for token in tokens.values())

    def test_forgets_what_has_expired_meanwhile(self, alice, anonymous):
        now = timezone.now()
        for jti, left in (("past", -1), ("future", 60)):
            expires_at = now + timedelta(seconds=left)
            RevokedToken.objects.create(jti=jti, expires_at=expires_at)

        self.log_out(anonymous, log_in(anonymous)["token"])

        known = set(RevokedToken.objects.values_list("jti", flat=True))
        assert "future" in known
        assert "past" not in known

    def test_everywhere_ends_all_tokens_of_the_user_and_nobody_elses(
        self, alice, as_mallory, anonymous
    ):
        here, there = log_in(anonymous), log_in(anonymous)

        response = self.log_out(anonymous, here["token"], "/api/users/logout_all")

        assert response.status_code == 200
        assert response.json() == {"message": "Logged out everywhere successfully"}
        for tokens in (here, there):
            assert status_with(anonymous, tokens["token"]) == 401
            assert_refused(renew(anonymous, tokens["refresh"]))
        assert as_mallory.get(GUARDED).status_code == 200
        assert status_with(anonymous, log_in(anonymous)["token"]) == 200


def test_logging_in_is_noted_with_its_time(alice, anonymous):
    assert alice.last_login is None

    log_in(anonymous)

    alice.refresh_from_db()
    assert alice.last_login is not None
    assert timezone.now() - alice.last_login < timedelta(minutes=1)
