"""manage.py serve: the whole backend, until SIGTERM."""

from __future__ import annotations

import argparse
import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection
from django.db.migrations.exceptions import MigrationSchemaMissing

from llmbackend import cache, metrics, serving, tables
from llmbackend.chat_models import usable_models
from llmbackend.config import Config, Server
from llmbackend.config_values import is_wildcard

FIRST_CONVERSATION = r"""
Try it in another terminal:
  curl -s %(base)s/api/users/register -d %(who)s
  AUTH="Authorization: Bearer $(curl -s %(base)s/api/users/login -d %(who)s | sed 's/.*"token":"\([^"]*\).*/\1/')"
  curl -sN %(base)s/api/chat/$(curl -s %(base)s/api/conversations/create -H "$AUTH" -d %(new)s | sed 's/.*"conversation_id":\([0-9]*\).*/\1/') -H "$AUTH" -d %(ask)s
"""  # noqa: E501  Lines to copy.

REGISTRATION_CLOSED = """\
Registration is closed: accounts are made in the admin, at /admin/,
and the first with manage.py createsuperuser."""

# What a newcomer may ask of a provider that serves any name of a pattern.
NEWCOMERS_MODEL = {"gpt*": "gpt-4o-mini", "glm*": "glm-4-flash"}


class Command(BaseCommand):
    help = "Migrates the database, then serves the API, the admin and the streams."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--server",
            choices=["uvicorn", "daphne"],
            default="uvicorn",
            help="daphne serves one process, holds in memory what a slow reader does"
            " not take, never drops one that takes nothing, and at its end drops"
            " WebSockets without the code 1012",
        )
        # For the workers that this command starts: the socket, and whose they are.
        parser.add_argument(
            "--worker", type=int, nargs=2, default=(), help=argparse.SUPPRESS
        )

    def handle(self, *, server: str, worker: Sequence[int], **options: Any) -> None:
        if worker:
            listening, supervisor = socket.socket(fileno=worker[0]), worker[1]
            serving.run_uvicorn(listening, supervisor=supervisor)
            return
        listening = self.bind()
        self.migrate()
        self.announce_stores()
        with metrics.counted_in(metrics_directory(settings.CONFIG)):
            self.serve(listening, server=server)

    def serve(self, listening: socket.socket, *, server: str) -> None:
        workers = settings.CONFIG.server.workers
        if server == "daphne":
            serving.run_daphne(listening, ready=self.announce)
        elif workers > 1:
            serving.supervise(listening, workers=workers, ready=self.announce)
        else:
            serving.run_uvicorn(listening, ready=self.announce)

    def bind(self) -> socket.socket:
        server = settings.CONFIG.server
        try:
            return serving.bind(host=server.host, port=server.port)
        except OSError as exc:
            hint = ""
            if exc.errno == errno.EADDRINUSE:
                hint = " Another program uses it; server.port in config.yaml names it."
            raise CommandError(
                f"Cannot listen on {server.host}:{server.port}: {exc.strerror}.{hint}"
            ) from exc

    def migrate(self) -> None:
        try:
            if reason := tables.why_unfit():
                raise CommandError(f"The database cannot be used: {reason}")
            # To find that nothing is to be done, it reads every migration there is.
            if not tables.are_complete():
                with tables.claimed():
                    # Unless another process has done it by now.
                    if not tables.are_complete():
                        call_command("migrate", verbosity=0, interactive=False)
        except (OperationalError, MigrationSchemaMissing) as exc:
            reason = str(exc).strip().splitlines()[0]
            raise CommandError(f"The database cannot be used: {reason}") from exc
        # The threads that serve have connections of their own.
        connection.close()

    def announce_stores(self) -> None:
        """In the seed's words, what was reached."""
        if settings.KEYS.notice:
            self.stdout.write(settings.KEYS.notice)
        address = settings.CONFIG.redis.address
        if not address:
            self.stdout.write("Redis is not configured; SQL alone is used.")
        elif (state := cache.state()) == "ok":
            self.stdout.write("Connected to Redis successfully!")
        else:
            trouble = cache.TROUBLES[state]
            self.stdout.write(f"Redis at {address} {trouble}; SQL alone is used.")
        store = "PostgreSQL" if settings.CONFIG.database.url else "SQLite"
        self.stdout.write(f"{store} initialized successfully!")

    def announce(self) -> None:
        """Called once connections are taken."""
        server = settings.CONFIG.server
        self.stdout.write(f"Server is running on port {server.port}")
        if settings.CONFIG.accounts.registration == "open":
            self.stdout.write(first_conversation(base_url(server)))
        else:
            self.stdout.write(REGISTRATION_CLOSED)
        self.stdout.flush()


def metrics_directory(config: Config) -> Path | None:
    """Beside the database, one a port; None where nothing is to be counted."""
    if not config.metrics.token:
        return None
    database = config.sqlite.path
    return database.with_name(f"{database.name}.metrics-{config.server.port}")


def base_url(server: Server) -> str:
    """Where a client on this machine finds the server."""
    if is_wildcard(server.host):
        return f"http://127.0.0.1:{server.port}"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


def first_conversation(base: str) -> str:
    """Three lines for a shell that end with a streamed answer."""
    ready = [m for m in usable_models(config=settings.CONFIG) if not m.needs_api_key]
    pattern = ready[0].model
    model = NEWCOMERS_MODEL.get(pattern, pattern.replace("*", ""))
    json = {
        "who": """'{"username":"ann","password":"a long password"}'""",
        "new": f"""'{{"title":"Hello","model":"{model}"}}'""",
        "ask": """'{"message":"What is the capital of France?"}'""",
    }
    return FIRST_CONVERSATION % {"base": base, **json}
