"""What an installation needs to work, looked at one by one."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx2
from django.conf import settings
from django.utils.translation import gettext as _

from llmbackend import cache, health, tables
from llmbackend.chat_models import usable_models
from llmbackend.config import Provider
from llmbackend.keys import key_file
from llmbackend.providers import FAILURES, Clients, authorization
from rag.embedding_models import embedding_models

PATIENCE = 10.0
ENOUGH_BYTES = 1 << 30
State = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it if anything."""

    state: State
    subject: str
    said: str


def findings() -> Iterator[Finding]:
    """All of it; config.yaml itself was read, or Django would not run."""
    yield Finding("ok", "config", "config.yaml is complete and valid")
    yield _secrets()
    yield _database()
    if not settings.CONFIG.database.url:
        yield _space()
    elif settings.CONFIG.local.enabled:
        yield _shared_folder()
    yield _redis()
    yield from _listening()
    yield from provider_findings()
    models = ", ".join(model.model for model in usable_models(config=settings.CONFIG))
    yield Finding("ok", "chat models", models)
    names = ", ".join(model.name for model in embedding_models(settings.CONFIG))
    yield Finding("ok", "embedding models", names)


def _secrets() -> Finding:
    if settings.CONFIG.database.url:
        return Finding("ok", "secrets", "derived from jwt.secret")
    path = key_file(settings.CONFIG)
    mode = stat.S_IMODE(path.stat().st_mode)
    if settings.KEYS.notice:
        return Finding("ok", "secrets", f"{settings.KEYS.notice} Back it up, too.")
    return Finding("ok", "secrets", f"{path.name}, mode {mode:o}. Back it up, too.")


def _database() -> Finding:
    config = settings.CONFIG
    kind = "PostgreSQL" if config.database.url else "SQLite"
    # To look for a file that is not there would make it.
    is_there = bool(config.database.url) or config.sqlite.path.exists()
    state = health.database_state() if is_there else "not migrated"
    if state != "unreachable" and (reason := tables.why_unfit()):
        return Finding("error", "database", reason)
    if state == "ok":
        return Finding("ok", "database", f"{kind} is reached and up to date")
    if state == "not migrated":
        return Finding(
            "warning", "database", f"{kind} is reached; run manage.py migrate"
        )
    return Finding("error", "database", f"{kind} cannot be reached")


def _space() -> Finding:
    folder = settings.CONFIG.sqlite.path.parent
    free = shutil.disk_usage(folder).free
    said = f"{free >> 20} MB are free where the database lies"
    return Finding("ok" if free > ENOUGH_BYTES else "warning", "disk", said)


def _shared_folder() -> Finding:
    """Where processes find the embedded models; it need not hold a database."""
    folder = settings.CONFIG.sqlite.path.parent
    if os.access(folder, os.W_OK):
        return Finding("ok", "embedded models", f"their processes share {folder}")
    said = f"{folder} cannot be written to, which they need; see sqlite.path"
    return Finding("warning", "embedded models", said)


def _redis() -> Finding:
    address = settings.CONFIG.redis.address
    if not address:
        return Finding("ok", "redis", "not configured, and not needed")
    state = cache.state()
    if state == "ok":
        return Finding("ok", "redis", f"{address} answers")
    trouble = cache.TROUBLES[state]
    return Finding("warning", "redis", f"{address} {trouble}; SQL is used")


def _listening() -> Iterator[Finding]:
    server = settings.CONFIG.server
    said = f"{server.host}:{server.port}, {server.workers} worker(s)"
    yield Finding("ok", "server", said)
    if settings.CONFIG.allowed_hosts == ("*",):
        advice = "any host name is answered for; name yours in server.allowed_hosts"
        yield Finding("warning", "server", advice)
    if server.host not in {"127.0.0.1", "::1", "localhost"} and (
        not server.trusted_proxies
    ):
        advice = (
            "reached from other machines without TLS; put a proxy in front and name it "
            "in server.trusted_proxies"
        )
        yield Finding("warning", "server", advice)


def provider_findings() -> list[Finding]:
    """Each provider of config.yaml in its order, on a thread that may block."""
    return asyncio.run(_providers())


async def _providers() -> list[Finding]:
    clients = Clients()
    try:
        providers = settings.CONFIG.providers
        return list(await asyncio.gather(*(_asked(p, clients) for p in providers)))
    finally:
        await clients.aclose()


async def _asked(provider: Provider, clients: Clients) -> Finding:
    """Ask for the provider's models: free of charge, and it needs the key."""
    subject = f"provider {provider.name}"
    if not provider.api_key:
        said = _("no key in config.yaml; conversations must bring one")
        return Finding("ok", subject, said)
    client = clients.client_for(provider)
    try:
        async with asyncio.timeout(PATIENCE):
            await client.get(
                "/models",
                cast_to=httpx2.Response,
                options={
                    "headers": authorization(provider.api_key),
                    "max_retries": 0,
                    "follow_redirects": False,
                },
            )
    except TimeoutError:
        return Finding(
            "error",
            subject,
            _("no answer within %(seconds)d seconds") % {"seconds": PATIENCE},
        )
    except FAILURES as exc:
        status = getattr(exc, "status_code", None)
        if status in {401, 403}:
            return Finding("error", subject, _("it refuses the API key"))
        if status is not None:
            # Not every provider lists its models; it was reached, though.
            return Finding(
                "warning",
                subject,
                _("reached; it answers HTTP %(status)d") % {"status": status},
            )
        return Finding(
            "error", subject, _("it cannot be reached: %(why)s") % {"why": _why(exc)}
        )
    return Finding("ok", subject, _("reached, and the API key is accepted"))


def _why(error: BaseException) -> str:
    """What kept a connection from being made; the SDK calls all of it a time-out."""
    cause = error
    # Below a time-out is what it cancelled.
    while not isinstance(cause, TimeoutError) and (
        below := cause.__cause__ or cause.__context__
    ):
        cause = below
    match cause:
        case TimeoutError():
            return _("no connection was made in time")
        case ssl.SSLCertVerificationError():
            return _("its certificate is not trusted")
        case ssl.SSLError():
            return _("no TLS is spoken there")
        case socket.gaierror():
            return _("its name is not known")
        case ConnectionRefusedError():
            return _("nothing listens there")
        case OSError(errno=int(number)):
            return os.strerror(number)
    return type(cause).__name__
