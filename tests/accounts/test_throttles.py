"""How often a log-in may fail, and an address may register."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import bcrypt
import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import F
from django.test import Client as Browser
from redis import Redis

from accounts.credentials import authenticated
from accounts.models import Tally, User
from llmbackend.errors import InvalidCredentials
from tests import served
from tests.conftest import PASSWORD, REDIS_PASSWORD, client_of, make_user, serving
from tests.patience import PATIENCE

DAY = 24 * 60 * 60
HERE, THERE = "198.51.100.1", "203.0.113.9"
PROXIES = ("127.0.0.1",)
TOO_MANY = {
    "error": "Too many failed log-ins; try again later.",
    "code": "rate_limited",
}


@pytest.fixture
def configure(settings):
    """Change keys of a section of the configuration."""

    def change(section, **values):
        changed = replace(getattr(settings.CONFIG, section), **values)
        settings.CONFIG = replace(settings.CONFIG, **{section: changed})

    return change


@pytest.fixture(scope="module")
def proxied(django_db_blocker, served):
    """A server that was made when this machine was a proxy; the others' is not."""
    before = django_settings.CONFIG
    behind = replace(before.server, trusted_proxies=PROXIES)
    django_settings.CONFIG = replace(before, server=behind)
    with django_db_blocker.unblock():
        for made in serving():
            django_settings.CONFIG = before
            yield made


@pytest.fixture
def behind_proxy(server, proxied, configure):
    """A client of a server that believes X-Forwarded-For; Alice has an account."""
    configure("server", trusted_proxies=PROXIES)
    make_user("alice")
    with client_of(proxied, None) as client:
        yield client


@pytest.fixture(params=["sql", "redis"])
def passing(request, behind_proxy):
    """Counts in SQL and in Redis; a function that lets every window end."""
    if request.param == "sql":
        return lambda: Tally.objects.update(ends_at=int(time.time()))
    redis = request.getfixturevalue("redis")

    def expire():
        with Redis(port=redis.port, password=REDIS_PASSWORD) as client:
            assert client.keys()
            assert not Tally.objects.exclude(key__startswith="audited-").exists()
            client.flushall()

    return expire


@pytest.fixture(params=["sql", "redis"])
def waiting(request, behind_proxy):
    """The same; a function that lets days go by."""
    if request.param == "sql":
        return lambda days: Tally.objects.update(ends_at=F("ends_at") - days * DAY)
    redis = request.getfixturevalue("redis")

    def wait(days):
        with Redis(port=redis.port, password=REDIS_PASSWORD) as client:
            for key in list(client.scan_iter()):
                # What would have ended by then is removed.
                client.expire(key, client.ttl(key) - days * DAY)

    return wait


def log_in(client, username="alice", password=PASSWORD, *, address=HERE):
    body = {"username": username, "password": password}
    headers = {"X-Forwarded-For": address}
    return client.post("/api/users/login", json=body, headers=headers)


def fail(client, username="alice", *, address=HERE):
    return log_in(client, username, "wrong password", address=address).status_code


def register(client, username, *, address=HERE, password=PASSWORD):
    body = {"username": username, "password": password}
    headers = {"X-Forwarded-For": address}
    return client.post("/api/users/register", json=body, headers=headers)


def assert_too_many(response, within=900):
    assert response.status_code == 429
    body = response.json()
    assert body.pop("request_id")
    assert body == TOO_MANY
    assert within - 60 < int(response.headers["retry-after"]) <= within


class TestAnAccount:
    def test_can_fail_10_times_in_15_minutes(self, behind_proxy, passing):
        assert [fail(behind_proxy) for _ in range(10)] == [401] * 10

        assert_too_many(log_in(behind_proxy, password="wrong password"))
        assert_too_many(log_in(behind_proxy))
        passing()
        assert log_in(behind_proxy).status_code == 200

    def test_fails_exactly_so_often_when_all_come_at_once(self, behind_proxy, passing):
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: fail(behind_proxy), range(32)))

        assert statuses.count(401) == 10
        assert statuses.count(429) == 22

    def test_fails_wherever_it_is_tried_from(self, behind_proxy):
        for number in range(10):
            fail(behind_proxy, address=f"198.51.100.{number}")

        assert fail(behind_proxy, address=THERE) == 429

    def test_is_one_however_its_name_is_written(self, behind_proxy):
        for name in ["alice", "ALICE", "Ａlice"] * 3 + ["aLICE"]:
            fail(behind_proxy, name)

        assert fail(behind_proxy) == 429

    def test_that_does_not_exist_is_refused_alike(self, behind_proxy):
        statuses = [fail(behind_proxy, "nobody") for _ in range(11)]

        assert statuses == [401] * 10 + [429]
        assert_too_many(log_in(behind_proxy, "nobody"))

    def test_does_not_count_what_succeeds_or_says_nothing(self, behind_proxy):
        for _ in range(12):
            assert log_in(behind_proxy).status_code == 200
            assert log_in(behind_proxy, password=None).status_code == 400

        assert fail(behind_proxy) == 401

    def test_costs_no_hash_once_it_is_refused(self, behind_proxy, monkeypatch):
        for _ in range(10):
            fail(behind_proxy)
        monkeypatch.delattr(bcrypt, "hashpw")

        assert fail(behind_proxy) == 429

    def test_lets_its_owner_in_where_she_was_before_whoever_fails_elsewhere(
        self, behind_proxy, passing
    ):
        assert log_in(behind_proxy, address=HERE).status_code == 200
        for _ in range(11):
            fail(behind_proxy, address=THERE)

        assert log_in(behind_proxy, address=HERE).status_code == 200
        assert_too_many(log_in(behind_proxy, address=THERE))

    def test_knows_where_its_owner_is_for_30_days_from_the_latest_log_in(
        self, behind_proxy, waiting
    ):
        log_in(behind_proxy, address=HERE)
        waiting(29)
        log_in(behind_proxy, address=HERE)
        waiting(29)
        for _ in range(11):
            fail(behind_proxy, address=THERE)

        assert log_in(behind_proxy, address=HERE).status_code == 200
        waiting(31)
        for _ in range(11):
            fail(behind_proxy, address=THERE)
        assert_too_many(log_in(behind_proxy, address=HERE))

    def test_counts_what_fails_where_its_owner_was_before(self, behind_proxy, passing):
        log_in(behind_proxy)

        assert [fail(behind_proxy) for _ in range(11)] == [401] * 10 + [429]
        assert_too_many(log_in(behind_proxy))
        assert log_in(behind_proxy, address=THERE).status_code == 200


class TestAnAddress:
    def test_can_fail_100_times_in_15_minutes_whatever_the_account(
        self, behind_proxy, passing
    ):
        statuses = [fail(behind_proxy, f"user{number}") for number in range(101)]

        assert statuses == [401] * 100 + [429]
        assert_too_many(log_in(behind_proxy))
        assert log_in(behind_proxy, address=THERE).status_code == 200

    def test_of_ipv6_is_the_network_of_one_client(self, behind_proxy, configure):
        configure("accounts", failed_logins_per_address=1)
        fail(behind_proxy, "a", address="2001:db8:0:1::1")

        assert fail(behind_proxy, "b", address="2001:db8:0:1:ffff::2") == 429
        assert fail(behind_proxy, "b", address="2001:db8:0:2::1") == 401

    def test_lets_those_in_who_were_there_before(self, behind_proxy, configure):
        configure("accounts", failed_logins_per_address=1)
        log_in(behind_proxy)
        fail(behind_proxy, "nobody")

        assert log_in(behind_proxy).status_code == 200
        assert fail(behind_proxy, "somebody") == 429

    def test_is_not_what_a_stranger_says_it_is(self, server, alice, configure):
        configure("server", trusted_proxies=("192.0.2.1",))
        configure("accounts", failed_logins_per_address=2)
        with client_of(server, None) as client:
            for number in range(2):
                fail(client, f"user{number}", address=f"198.51.100.{number}")

            assert fail(client, "somebody", address=THERE) == 429


class TestWhatIsNotLimited:
    def test_this_machine_unless_a_proxy_is_on_it(self, anonymous, alice):
        assert {fail(anonymous) for _ in range(12)} == {401}
        assert not Tally.objects.exclude(key__startswith="audited-").exists()

    def test_an_account_where_the_limit_is_0(self, behind_proxy, configure):
        configure("accounts", failed_logins_per_account=0)
        log_in(behind_proxy, address=THERE)

        assert {fail(behind_proxy) for _ in range(12)} == {401}

    def test_an_address_where_the_limit_is_0(self, behind_proxy, configure):
        configure("accounts", failed_logins_per_address=0, failed_logins_per_account=1)

        assert {fail(behind_proxy, f"user{n}") for n in range(101)} == {401}

    def test_registration_where_the_limit_is_0(self, behind_proxy, configure):
        configure("accounts", registrations_per_address=0)

        assert {register(behind_proxy, f"u{n}").status_code for n in range(61)} == {201}


class TestRegistering:
    def test_is_possible_60_times_an_hour_from_an_address(self, behind_proxy, passing):
        statuses = [register(behind_proxy, f"u{n}").status_code for n in range(60)]

        refused = register(behind_proxy, "late")

        assert statuses == [201] * 60
        assert refused.status_code == 429
        assert refused.json()["code"] == "rate_limited"
        assert 3540 < int(refused.headers["retry-after"]) <= 3600
        assert register(behind_proxy, "elsewhere", address=THERE).status_code == 201
        passing()
        assert register(behind_proxy, "late").status_code == 201

    def test_counts_names_that_are_taken_but_no_malformed_request(
        self, behind_proxy, configure
    ):
        configure("accounts", registrations_per_address=2)
        for _ in range(3):
            assert register(behind_proxy, "bob", password="short").status_code == 400

        codes = [register(behind_proxy, "alice").json()["code"] for _ in range(3)]

        assert codes == ["username_taken", "username_taken", "rate_limited"]

    def test_does_not_limit_this_machine(self, anonymous):
        assert {register(anonymous, f"u{n}").status_code for n in range(61)} == {201}


class TestTheAdminsLogIn:
    def log_in(self, password):
        browser = Browser(headers={"host": "localhost"}, REMOTE_ADDR=HERE)
        form = {"username": "root", "password": password}
        return browser.post("/admin/login/?next=/admin/", form)

    def test_counts_with_all_others(self, behind_proxy):
        User.objects.create_superuser("root", password=PASSWORD)
        for _ in range(5):
            assert b"Please enter the correct" in self.log_in("wrong").content
            assert fail(behind_proxy, "root") == 401

        refused = self.log_in(PASSWORD)

        assert refused.status_code == 200
        assert b"Too many failed log-ins; try again in 15 minutes." in refused.content
        assert_too_many(log_in(behind_proxy, "root"))

    def test_counts_with_the_page_for_a_password_of_ones_own(self, behind_proxy):
        root = User.objects.create_superuser("root", password=PASSWORD)
        browser = Browser(headers={"host": "localhost"}, REMOTE_ADDR=HERE)
        browser.force_login(root)
        new = {"new_password1": "a better horse", "new_password2": "a better horse"}
        for _ in range(10):
            browser.post("/admin/password_change/", {**new, "old_password": "wrong"})

        form = {**new, "old_password": PASSWORD}
        refused = browser.post("/admin/password_change/", form)

        assert refused.status_code == 200
        assert b"Too many failed log-ins; try again in 15 minutes." in refused.content
        assert b"Too many failed log-ins" in self.log_in(PASSWORD).content

    def test_opens_the_admin_to_staff_alone(self, behind_proxy):
        User.objects.create_superuser("root", password=PASSWORD)
        assert self.log_in(PASSWORD).headers["location"] == "/admin/"

        User.objects.update(is_staff=False)

        assert b"Please enter the correct" in self.log_in(PASSWORD).content


def test_a_success_waits_for_no_lock_that_a_failure_holds(behind_proxy, monkeypatch):
    begun, gate = threading.Event(), threading.Event()
    right = hashlib.sha256(PASSWORD.encode()).hexdigest().encode()

    def hashpw(password, salt):
        if password != right:
            begun.set()
            assert gate.wait(PATIENCE)
        return original(password, salt)

    original = bcrypt.hashpw
    monkeypatch.setattr(bcrypt, "hashpw", hashpw)
    given = {"username": "alice", "address": HERE}
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(authenticated, **given, password="wrong password")
        assert begun.wait(PATIENCE)

        user = authenticated(**given, password=PASSWORD)

        assert user.username == "alice"
        assert not failing.done()
        gate.set()
        assert isinstance(failing.exception(20), InvalidCredentials)
        # The name is looked up there: here it would be this thread's connection.
        pool.submit(lambda: connection.close()).result()


def test_workers_count_together(tmp_path):
    two = {"workers": 2, "trusted_proxies": ["127.0.0.1"]}
    with served.serving(tmp_path, server=two) as process:
        statuses = []
        for _ in range(12):
            # A connection of its own each, for whichever worker takes it.
            with process.client() as client:
                statuses.append(fail(client))

    assert statuses == [401] * 10 + [429] * 2


def test_what_was_counted_long_ago_is_removed(behind_proxy, configure):
    configure("accounts", failed_logins_per_address=0)
    fail(behind_proxy, "first")
    Tally.objects.update(ends_at=int(time.time()) - 1)

    fail(behind_proxy, "second")

    assert Tally.objects.exclude(key__startswith="audited-").count() == 1


def test_no_name_and_no_address_is_kept(behind_proxy):
    fail(behind_proxy)
    log_in(behind_proxy, address=THERE)

    keys = " ".join(Tally.objects.values_list("key", flat=True))
    assert "failed-account:" in keys
    for secret in ("alice", HERE, THERE):
        assert secret not in keys


def test_counts_go_on_in_sql_when_redis_dies(behind_proxy, redis):
    for _ in range(10):
        fail(behind_proxy)
    assert fail(behind_proxy) == 429
    redis.stop()

    statuses = [fail(behind_proxy) for _ in range(11)]

    assert statuses == [401] * 10 + [429]
