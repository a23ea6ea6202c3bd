"""The log as JSON: every line of a serving process is an object that programs read."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from llmbackend.log import JsonFormatter
from tests import fake_provider
from tests.fake_provider import FakeProvider, refusal
from tests.patience import PATIENCE
from tests.served import ROOT, ServeProcess, fake_section, serving

ALWAYS = {"time", "level", "logger", "process", "request_id", "message"}
OF_AN_ACCESS = {"client", "method", "path", "status", "duration_ms"}
SERVERS = [[], ["--server", "daphne"]]
QUESTION = "Where do the swallows go"
PASSWORD = "correct horse battery"
KEY = "sk-canary-of-a-conversation"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


def lines_of(server: ServeProcess) -> list[dict[str, Any]]:
    """What the server has logged; fails on a line that is no object."""
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert all(isinstance(line, dict) and line.keys() >= ALWAYS for line in lines)
    return lines


def accesses(server: ServeProcess, path: str) -> list[dict[str, Any]]:
    logged = lines_of(server)
    return [line for line in logged if line.get("path") == path]


@pytest.mark.parametrize("options", SERVERS, ids=["uvicorn", "daphne"])
def test_every_line_is_an_object_and_finds_its_request(
    options: list[str], tmp_path: Path, provider: FakeProvider
) -> None:
    with serving(
        tmp_path,
        *options,
        providers=fake_section(provider.base_url),
        log={"format": "json"},
    ) as server:
        with server.signed_in() as alice:
            body = {"model": "gpt-4o", "api_key": KEY}
            created = alice.post("/api/conversations/create", json=body).json()
            path = f"/api/chat/{created['conversation_id']}"
            answered = alice.post(path, json={"message": QUESTION})
            provider.default = refusal(401, {"message": f"Wrong key: {KEY}"})
            refused = alice.post(path, json={"message": QUESTION})
            provider.reset()
            strange = alice.get("/no%22thing%0a%7b%7d", params={"ticket": "secret"})
            token = alice.headers["Authorization"].removeprefix("Bearer ")
        socket_path = path.replace("/api/", "/ws/")
        address = server.base_url.replace("http:", "ws:") + socket_path
        protocols: list[Any] = ["bearer", token]
        with connect(address, subprotocols=protocols, proxy=None) as socket:
            assert json.loads(socket.recv())["event"] == "ready"
        break_the_database(server)
        with server.client() as client:
            broken = client.post(
                "/api/users/login", json={"username": "alice", "password": PASSWORD}
            )
        server.wait_for(lambda: bool(accesses(server, socket_path)))
        server.terminate()
        server.wait(PATIENCE)

    assert answered.status_code == 200
    assert [line["status"] for line in accesses(server, path)] == [200, 502]
    for response in (answered, refused, strange, broken):
        about = response.headers["x-request-id"]
        found = [x for x in lines_of(server) if x["request_id"] == about]
        access = next(line for line in found if line["logger"] == "llmbackend.access")
        assert access.keys() == ALWAYS | OF_AN_ACCESS
        assert (access["status"], access["client"]) == (
            response.status_code,
            "127.0.0.1",
        )
    assert accesses(server, '/no"thing?{}')
    (socket_line,) = accesses(server, socket_path)
    assert (socket_line["method"], socket_line["status"]) == ("WEBSOCKET", None)
    assert broken.status_code == 503
    about = broken.headers["x-request-id"]
    (failed,) = [
        x for x in lines_of(server) if "exception" in x and x["request_id"] == about
    ]
    assert failed["level"] == "ERROR"
    assert failed["exception"].startswith("Traceback")
    assert "no such table" in failed["exception"]
    for secret in (QUESTION, PASSWORD, KEY, token, "ticket"):
        assert secret not in server.log


def break_the_database(server: ServeProcess) -> None:
    with sqlite3.connect(server.database) as database:
        database.execute("ALTER TABLE accounts_user RENAME TO accounts_gone")
    database.close()


def test_what_python_itself_would_print_is_an_object_too() -> None:
    """In a process of its own: hooks of the interpreter are for the whole of it."""
    program = """
import logging, threading, warnings
from llmbackend.log import JsonFormatter, take_what_is_printed
handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())
logging.basicConfig(handlers=[handler])
take_what_is_printed()
class Last:
    def __del__(self): raise ValueError("of a finalizer")
def run(): raise ValueError("of a thread")
warnings.warn("of a library")
thread = threading.Thread(target=run); thread.start(); thread.join()
Last()
raise ValueError("of the program")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [line["logger"] for line in lines] == ["py.warnings"] + 3 * [
        "llmbackend.log"
    ]
    assert "of a library" in lines[0]["message"]
    for line, whose in zip(
        lines[1:], ("a thread", "a finalizer", "the program"), strict=True
    ):
        assert f"ValueError: of {whose}" in line["exception"]


def test_of_what_is_attached_to_a_record_only_fields_are_told() -> None:
    record = logging.makeLogRecord(
        {
            "msg": "Two\nlines, %s",
            "args": ("鸟 \ud800",),
            "request": object(),
            "fields": {"status": 200},
        }
    )

    line = JsonFormatter().format(record)

    assert re.fullmatch(r"[ -~]+", line)
    told = json.loads(line)
    assert told.keys() == ALWAYS | {"status"}
    assert told["message"] == "Two\nlines, 鸟 \ud800"
    assert told["request_id"] is None


def test_a_question_that_the_database_fails_is_one_error(
    tmp_path: Path, provider: FakeProvider
) -> None:
    with (
        serving(
            tmp_path,
            providers=fake_section(provider.base_url),
            log={"format": "json"},
        ) as server,
        server.signed_in() as alice,
    ):
        new = {"title": "Birds", "model": "gpt-4o"}
        made = alice.post("/api/conversations/create", json=new).json()
        server.query("ALTER TABLE conversations_message RENAME TO gone")

        path = f"/api/chat/{made['conversation_id']}"
        answer = alice.post(path, json={"message": QUESTION})
        (told,) = [line for line in lines_of(server) if line["level"] == "ERROR"]

    assert answer.status_code in {500, 503}
    assert told["request_id"] == answer.json()["request_id"]
