"""
Secrets are planted, a whole conversation is held with all its failures, and then
everything that was answered, stored, cached and logged is searched for them.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import redis as redis_client
from django.conf import settings
from django.db import connection
from django.test import Client as AdminClient

from accounts.models import ApiKey, AuditEntry, User
from conversations.models import Conversation, Message
from tests import fake_provider, postgresql_server, redis_server, served
from tests.conftest import PASSWORD, Client, Served, client_of, until_idle
from tests.fake_provider import FakeProvider, Script, refusal

QUESTION = "Where do the swallows go in winter"


def canary(name: str) -> str:
    """A secret that occurs nowhere by chance, and reads alike however it is escaped."""
    return f"sk-{name}-{secrets.token_hex(20)}"


@dataclass
class Held:
    """A conversation that was held: its secrets, and what the server answered."""

    password: str = field(default_factory=lambda: canary("password"))
    api_key: str = field(default_factory=lambda: canary("apikey"))
    token: str = ""
    refresh: str = ""
    personal_key: str = ""
    answers: list[str] = field(default_factory=list)

    @property
    def planted(self) -> dict[str, str]:
        return {
            "password": self.password,
            "api_key": self.api_key,
            "token": self.token,
            "signature of the token": self.token.rpartition(".")[2],
            "personal key": self.personal_key,
            "refresh token": self.refresh,
            "signature of the refresh token": self.refresh.rpartition(".")[2],
        }

    def keep(self, response: httpx2.Response) -> httpx2.Response:
        """Keep an answer, headers and all, to be searched."""
        headers = "\n".join(f"{k}: {v}" for k, v in response.headers.items())
        self.answers.append(f"{response.status_code}\n{headers}\n\n{response.text}")
        return response


def failures(key: str) -> list[Script]:
    """Providers that fail in all ways, and quote the key while they do."""
    said = {"message": f"Incorrect API key provided: {key}", "type": "bad", "code": key}
    error = {"error": said}
    html = f"<html>Bearer {key}</html>".encode()
    return [
        refusal(401, said),
        refusal(400, said, headers={"X-Key": key}),
        refusal(500, said),
        Script(status=302, headers={"Location": f"http://127.0.0.1:9/{key}"}),
        Script(body=html, headers={"Content-Type": "text/html"}),
        Script(body=b"data: {" + key.encode() + b"\n\n"),
        Script(body=json.dumps(error).encode()),
        Script(pieces=["Hel"], chunks=[error]),
        Script(pieces=["Hel"], chunks=[key]),
        Script(pieces=["Hel", "lo"], cut="rst", cut_after=2),
        Script(pieces=["Hel", "lo"], prelude=f": {key}\n\n".encode()),
    ]


def hold(client: httpx2.Client, provider: FakeProvider, configured_key: str) -> Held:
    """Everything a user can do, most of it wrongly; only two answers are not kept."""
    held = Held()
    sign_up(client, held)
    client.headers["Authorization"] = f"Bearer {held.token}"
    conversations = create(client, held)
    for conversation, key in zip(
        conversations, (held.api_key, configured_key), strict=True
    ):
        path = f"/api/chat/{conversation}"
        for script in [Script(), *failures(key)]:
            provider.default = script
            held.keep(client.post(path, json={"message": QUESTION}))
            provider.reset()
            held.keep(client.post(f"{path}?format=sse", json={"message": QUESTION}))
        held.keep(client.get(f"/api/conversations/history/{conversation}"))
        held.keep(client.post(path, content=held.token))
        held.keep(client.post(path, content=b" " * (300 << 10)))
        held.keep(client.put(path))
    for path in ("conversations/list", "chat/models", "conversations/history/7"):
        held.keep(client.get(f"/api/{path}"))
    held.keep(client.get("/readyz"))
    held.keep(client.get("/healthz", headers={"Host": "elsewhere.example"}))
    with_personal_key(client, held)
    forged = f"Bearer {held.token[:-6]}AAAAAA"
    held.keep(client.get("/api/chat/models", headers={"Authorization": forged}))
    return held


def with_personal_key(client: httpx2.Client, held: Held) -> None:
    """A key is made and used, for what it opens and for what it does not."""
    path, new = "/api/users/keys", {"name": "Script", "scopes": ["chat"]}
    # This answer is the one that shows the key.
    held.personal_key = client.post(path, json=new).json()["key"]
    headers = {"Authorization": f"Bearer {held.personal_key}"}
    held.keep(client.get("/api/conversations/list", headers=headers)).raise_for_status()
    held.keep(client.get(path, headers=headers))
    held.keep(client.get(path)).raise_for_status()
    wrong = {"refresh": held.personal_key}
    held.keep(client.post("/api/users/token/refresh", json=wrong))


def sign_up(client: httpx2.Client, held: Held) -> None:
    who = {"username": "ann", "password": held.password}
    for path in ("register", "login"):
        held.keep(client.post(f"/api/users/{path}", content=json.dumps(who)[:-1]))
        wrong = {"username": ["ann"], "password": held.password}
        held.keep(client.post(f"/api/users/{path}", json=wrong))
    held.keep(client.post("/api/users/register", json=who)).raise_for_status()
    held.keep(client.post("/api/users/register", json=who))
    held.keep(client.post("/api/users/login", json={**who, "username": "bob"}))
    # These answers are where tokens are told.
    used = client.post("/api/users/login", json=who).json()["refresh"]
    renewed = client.post("/api/users/token/refresh", json={"refresh": used}).json()
    held.token, held.refresh = renewed["token"], renewed["refresh"]
    held.keep(client.post("/api/users/token/refresh", json={"refresh": held.token}))


def create(client: httpx2.Client, held: Held) -> list[int]:
    """Two conversations: one with a key of its own, one without."""
    path, new = "/api/conversations/create", {"title": "Birds", "model": "gpt-4o"}
    with_key = {**new, "api_key": held.api_key}
    held.keep(client.post(path, json={**with_key, "model": "claude-3"}))
    held.keep(client.post(path, json={**with_key, "title": ["Birds"]}))
    held.keep(client.post(path, json={**new, "api_key": held.api_key + "é"}))
    held.keep(client.post(path, json={**new, "api_key": [held.api_key]}))
    held.keep(client.post(path, json={**new, "api_key": held.api_key * 20}))
    held.keep(client.post(path, content=json.dumps(with_key)[:-1]))
    # This answer is the one that echoes the key.
    created = client.post(path, json=with_key).json()
    assert created["api_key"] == held.api_key
    keyless = held.keep(client.post(path, json=new)).json()
    return [created["conversation_id"], keyless["conversation_id"]]


def found_in(haystack: bytes, planted: dict[str, str]) -> list[str]:
    """Which of the planted are there, plainly or thinly veiled."""
    return [
        name
        for name, secret in planted.items()
        if any(form in haystack for form in forms_of(secret.encode()))
    ]


def forms_of(secret: bytes) -> list[bytes]:
    """As it is, in hex, and in base64 from whichever of three places it begins at."""
    shifted = [base64.b64encode(b"\0" * n + secret)[4:-4] for n in range(3)]
    return [secret, secret.hex().encode(), *shifted]


def stored_in(database: Path | str) -> bytes:
    """An SQLite file with its write-ahead log, or a dump of PostgreSQL at this URL."""
    if isinstance(database, str):
        dump = ["pg_dump", "--dbname", database]
        return subprocess.run(dump, capture_output=True, check=True).stdout
    names = (database.name, f"{database.name}-wal", f"{database.name}-journal")
    files = (database.with_name(name) for name in names)
    return b"".join(file.read_bytes() for file in files if file.exists())


def here() -> Path | str:
    """Where this process keeps what it stores."""
    place = connection.settings_dict
    if connection.vendor == "sqlite":
        return Path(place["NAME"])
    return postgresql_server.url_of(place["NAME"], port=place["PORT"])


class Keeping(logging.Handler):
    """Keeps every record in a list."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.emit = records.append  # type: ignore[assignment, method-assign]


@contextmanager
def everything_logged() -> Iterator[list[logging.LogRecord]]:
    """Every record at DEBUG, also of loggers that are otherwise silenced."""
    records: list[logging.LogRecord] = []
    handler = Keeping(records)
    names = [None, *logging.root.manager.loggerDict]
    before = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    logging.root.addHandler(handler)
    for logger, _ in before:
        logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logging.root.removeHandler(handler)
        for logger, level in before:
            logger.setLevel(level)


def test_in_this_process_no_secret_is_anywhere(
    server: Served, provider: FakeProvider
) -> None:
    configured_key, keys = settings.CONFIG.providers[0].api_key, settings.KEYS
    with everything_logged() as records, client_of(server, None) as client:
        held = hold(client, provider, configured_key)
        until_idle(server)
    logged = "\n".join(map(logging.Formatter().format, records))
    planted = {
        **held.planted,
        "configured key": configured_key,
        "jwt secret": keys.jwt,
        "django secret": keys.django,
        "field key": keys.field[0],
    }

    answers = "\n".join(held.answers).encode()
    files = stored_in(here())
    pages = b"\n".join(admin_pages())

    # First that there is something to be searched.
    assert b"Hello!" in answers
    assert QUESTION.encode() in files
    assert "Incorrect API key provided: ***" in logged
    assert b"gpt-4o" in pages
    assert found_in(answers, planted) == []
    assert found_in(files, planted) == []
    assert found_in(logged.encode(), planted) == []
    assert found_in(pages, planted) == []
    assert b"Birds" not in pages
    # What was said is for its owner; our own log lines tell of it by number.
    assert QUESTION.encode() not in pages
    assert not [r for r in records if is_ours(r) and QUESTION in r.getMessage()]


def is_ours(record: logging.LogRecord) -> bool:
    packages = {"llmbackend", "accounts", "conversations", "rag", "chat"}
    return record.name.partition(".")[0] in packages


def test_the_provider_is_sent_each_key(
    as_alice: Client, provider: FakeProvider
) -> None:
    own = canary("apikey")

    as_alice.ask(as_alice.conversation(api_key=own), "Hi")
    as_alice.ask(as_alice.conversation(), "Hi")

    configured = settings.CONFIG.providers[0].api_key
    assert [r.api_key for r in provider.requests] == [own, configured]


def admin_pages() -> Iterator[bytes]:
    """Every list and row in the admin of users, what they did, have and said."""
    admin = AdminClient()
    admin.force_login(User.objects.create_superuser("root", password=PASSWORD))
    for model in (User, ApiKey, AuditEntry, Conversation, Message):
        label = model._meta.label_lower.replace(".", "/")
        rows = [str(pk) for pk in model._default_manager.values_list("pk", flat=True)]
        for path in ("", *(f"{pk}/change/" for pk in rows)):
            response = admin.get(f"/admin/{label}/{path}")
            assert response.status_code == 200, (label, path)
            yield response.content


def test_in_a_server_with_redis_no_secret_is_anywhere(tmp_path: Path) -> None:
    redis_server.require_redis()
    names = ("provider key", "jwt secret", "redis password")
    configured = {name: canary(name.replace(" ", "")) for name in names}
    with (
        fake_provider.running() as provider,
        redis_server.running(password=configured["redis password"]) as redis,
        watched(redis) as told,
        serving(tmp_path, provider, redis, configured) as process,
        process.client() as client,
    ):
        held = hold(client, provider, configured["provider key"])
        printed = process.stdout + process.log
        files = stored_in(process.database_url or process.database)
        commands = "\n".join(told())
    planted = {**held.planted, **configured}
    answers = "\n".join(held.answers)

    # First that there is something to be searched.
    assert "Hello!" in answers
    assert "Connected to Redis successfully!" in printed
    assert "Incorrect API key provided: ***" in printed
    assert QUESTION.encode() in files
    assert QUESTION in commands
    assert found_in(answers.encode(), planted) == []
    assert found_in(printed.encode(), planted) == []
    assert found_in(files, planted) == []
    assert found_in(commands.encode(), planted) == []
    assert QUESTION not in printed


def serving(
    directory: Path,
    provider: FakeProvider,
    redis: redis_server.RedisServer,
    configured: dict[str, str],
) -> Any:
    [section] = served.fake_section(provider.base_url)
    return served.serving(
        directory,
        jwt={"secret": configured["jwt secret"]},
        providers=[{**section, "api_key": configured["provider key"]}],
        redis={"address": redis.address, "password": configured["redis password"]},
    )


@contextmanager
def watched(redis: redis_server.RedisServer) -> Iterator[Any]:
    """Yields a function that returns every command Redis was given meanwhile."""
    end = secrets.token_hex(8)
    connection = redis_client.Redis(port=redis.port, password=redis.password)
    with connection as client, client.monitor() as monitor:

        def told() -> list[str]:
            client.echo(end)
            commands: list[str] = []
            while not commands or end not in commands[-1]:
                commands.append(monitor.next_command()["command"])
            return commands

        yield told
