"""GET /healthz and GET /readyz."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as configured
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from llmbackend.config import Redis
from tests.conftest import Client
from tests.ports import free_port

LAST = "0002_lists"


def test_healthz_says_that_the_process_answers(anonymous: Client) -> None:
    answer = anonymous.get("/healthz")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


def test_readyz_names_what_it_looked_at(anonymous: Client) -> None:
    answer = anonymous.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "database": "ok",
        "redis": "not configured",
    }


def test_a_missing_migration_is_not_ready(anonymous: Client) -> None:
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("rag", LAST)
    try:
        answer = anonymous.get("/readyz")
    finally:
        recorder.record_applied("rag", LAST)

    assert answer.status_code == 503
    assert answer.json()["status"] == "unavailable"
    assert answer.json()["database"] == "not migrated"
    assert int(answer.headers["Retry-After"]) > 0


def test_without_its_redis_it_is_degraded_and_ready(
    anonymous: Client, settings: Any
) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings.CONFIG = replace(configured.CONFIG, redis=Redis(address=address))
    settings.CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{address}/0",
        }
    }

    answer = anonymous.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["redis"] == "unreachable"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_neither_asks_who_is_asking(anonymous: Client, path: str) -> None:
    headers = {"Authorization": "Bearer not.a.token"}

    assert anonymous.get(path, headers=headers).status_code == 200
