"""The cast: Alice owns things, Mallory nothing; a served project, a fake provider."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
import uvicorn
from django.apps import apps
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.test.utils import setup_databases, teardown_databases
from hypothesis import HealthCheck, settings as hypothesis_settings

from llmbackend import cache
from llmbackend.config import Provider
from tests import fake_provider, postgresql_server, redis_server
from tests.distribution import ByFile, turn
from tests.patience import PATIENCE
from tests.postgresql_server import PostgreSQLServer

PASSWORD = "correct horse battery"
REDIS_PASSWORD = "canary-redis-password"
REDIS_TIME_OUT = 1
# A busy machine makes no mistake of a slow example.
hypothesis_settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("patient")
# Bases that name no model need no provider.
RAG = replace(django_settings.CONFIG.rag, default_embedding_model="local-ngram")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: a third of its time a worker waits for what it started."""
    return len(os.sched_getaffinity(0)) * 3 // 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return ByFile(config, log) if config.option.dist == "load" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=turn)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL for all tests that ask for it; the run's own, where it is on one."""
    port = django_settings.DATABASES["default"].get("PORT", 0)
    with postgresql_server.running(port=port) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def database_server(request: pytest.FixtureRequest) -> None:
    """What the database of the run needs, and those of servers that tests start."""
    if postgresql_server.is_the_runs():
        request.getfixturevalue("postgresql")


@pytest.fixture(scope="session")
def django_db_setup(
    database_server: None, django_test_environment: None, django_db_blocker: Any
) -> Iterator[None]:
    """pytest-django makes a database only for tests that use its own fixtures."""
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False)
    yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=0)


@pytest.fixture(scope="session")
def provider_process() -> Iterator[Any]:
    with fake_provider.running() as fake:
        served = Provider(
            name="fake",
            base_url=fake.base_url,
            api_key="sk-configured-key",
            chat_models=("gpt*",),
            embedding_models={"fake-embedding": "embed-3"},
        )
        other = Provider(
            name="other", base_url="http://127.0.0.1:9/v1", chat_models=("gone*",)
        )
        django_settings.CONFIG = replace(
            django_settings.CONFIG, providers=(served, other), rag=RAG
        )
        yield fake


@dataclass(frozen=True)
class Served:
    """A running server and what it is made of."""

    base_url: str
    application: Any


@pytest.fixture(scope="session")
def served(
    django_db_setup: None, django_db_blocker: Any, provider_process: Any
) -> Iterator[Served]:
    """The project under uvicorn on a loopback port, in a thread of this process."""
    # Its threads use the database between tests, too.
    with django_db_blocker.unblock():
        yield from serving()


def serving() -> Iterator[Served]:
    from llmbackend.asgi import Application
    from llmbackend.serving import bind, uvicorn_config

    application = Application()
    listening = bind(host="127.0.0.1", port=0)
    server = uvicorn.Server(uvicorn_config(application))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = listening.getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", application)
    server.should_exit = True
    thread.join(PATIENCE)
    listening.close()


@pytest.fixture
def provider(provider_process: Any) -> Iterator[Any]:
    """The OpenAI-compatible provider that serves every `gpt*` model."""
    provider_process.reset()
    yield provider_process
    provider_process.reset()


@pytest.fixture
def database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """An empty database; what a test commits is removed after it."""
    with django_db_blocker.unblock():
        yield
        remove_rows()


def remove_rows() -> None:
    """Far quicker than Django's flush, which makes all permissions anew."""
    ours = ("accounts", "conversations", "rag", "sessions", "admin")
    with transaction.atomic(), connection.cursor() as cursor, unguarded(cursor):
        for model in apps.get_models(include_auto_created=True):
            if model._meta.app_label in ours:
                cursor.execute(f'DELETE FROM "{model._meta.db_table}"')  # noqa: S608
    connection.close()


@contextmanager
def unguarded(cursor: Any) -> Iterator[None]:
    """Lift for a moment what keeps the audit log from being changed."""
    if connection.vendor == "postgresql":
        # No trigger on single rows is asked.
        cursor.execute("TRUNCATE accounts_auditentry")
        yield
        return
    cursor.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        " AND EXISTS (SELECT 1 FROM accounts_auditentry)"
    )
    triggers = cursor.fetchall()
    for name, _ in triggers:
        cursor.execute(f"DROP TRIGGER {name}")
    yield
    for _, statement in triggers:
        cursor.execute(statement)


@pytest.fixture
def server(served: Served, provider: Any, database: None) -> Iterator[Served]:
    """The running server on an empty database; waits for its answers at the end."""
    yield served
    provider.release_all()
    until_idle(served)


def until_idle(served: Served) -> None:
    event, until = threading.Event(), time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if not served.application.answers.busy:
            return
        event.wait(0.01)
    raise AssertionError("Answers are still being written.")


@pytest.fixture
def same_hour() -> None:
    """For what is counted by hours or days: neither ends during the test."""
    left = 3600 - time.time() % 3600
    if left < 10:
        time.sleep(left)


class Client(httpx2.Client):
    """An API client with a user's token."""

    def conversation(self, *, model: str = "gpt-4o", **fields: Any) -> int:
        body = {"title": "Rust", "model": model, **fields}
        response = self.post("/api/conversations/create", json=body)
        assert response.status_code == 200, response.text
        return int(response.json()["conversation_id"])

    def ask(self, conversation: int, message: str, **options: Any) -> httpx2.Response:
        path = f"/api/chat/{conversation}"
        return self.post(path, json={"message": message}, **options)

    def history(self, conversation: int) -> list[dict[str, Any]]:
        response = self.get(f"/api/conversations/history/{conversation}")
        assert response.status_code == 200, response.text
        return list(response.json()["messages"])


def make_user(name: str) -> Any:
    from accounts.models import User

    return User.objects.create_user(name, password=PASSWORD)


def make_key(owner: Any, *scopes: str, **limits: Any) -> tuple[Any, str]:
    """An API key as it is stored, and as it is shown once."""
    from accounts.api_keys import Wanted, make

    return make(owner=owner, wanted=Wanted(name="Mine", scopes=scopes, **limits))


def client_of(served: Served, user: Any | None) -> Client:
    from accounts.tokens import issue

    return client_with(served, issue(user) if user else "")


def client_with(served: Served, bearer: str) -> Client:
    """A client with a token or an API key, or with neither."""
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    return Client(
        base_url=served.base_url,
        headers=headers,
        timeout=PATIENCE,
        trust_env=False,
        verify=False,  # Loading certificates costs more than the request.
    )


@pytest.fixture
def alice(server: Served) -> Any:
    return make_user("alice")


@pytest.fixture
def mallory(server: Served) -> Any:
    return make_user("mallory")


@pytest.fixture
def anonymous(server: Served) -> Iterator[Client]:
    with client_of(server, None) as client:
        yield client


@pytest.fixture
def as_alice(server: Served, alice: Any) -> Iterator[Client]:
    with client_of(server, alice) as client:
        yield client


@pytest.fixture
def as_mallory(server: Served, mallory: Any) -> Iterator[Client]:
    with client_of(server, mallory) as client:
        yield client


@pytest.fixture
def redis(
    server: Served, settings: Any, monkeypatch: Any
) -> Iterator[redis_server.RedisServer]:
    """A Redis of this test's own, which the project is configured to use."""
    redis_server.require_redis()
    with redis_server.running(password=REDIS_PASSWORD) as running:
        configured = replace(
            settings.CONFIG.redis, address=running.address, password=REDIS_PASSWORD
        )
        settings.CONFIG = replace(settings.CONFIG, redis=configured)
        settings.CACHES = {
            "default": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": f"redis://{running.address}/0",
                "KEY_PREFIX": "llmbackend",
                "OPTIONS": {
                    "PASSWORD": REDIS_PASSWORD,
                    "SERIALIZER": "llmbackend.cache.Serializer",
                    "SOCKET_CONNECT_TIMEOUT": REDIS_TIME_OUT,
                    "SOCKET_TIMEOUT": REDIS_TIME_OUT,
                },
            }
        }
        monkeypatch.setattr(cache, "breaker", cache.Breaker())
        yield running
