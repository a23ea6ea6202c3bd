"""/metrics of a real server with two workers, read as Prometheus reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmbackend.routes import Routes
from tests import fake_provider
from tests.fake_provider import FakeProvider, Script, refusal
from tests.patience import PATIENCE
from tests.rag.embeddings import Embeddings
from tests.served import ServeProcess, fake_section, serving

TOKEN = "a-token-for-prometheus"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CONFIG: dict[str, Any] = {
    "metrics": {"token": TOKEN},
    "log": {"format": "json"},
    "rag": {"default_embedding_model": "local-ngram"},
}


@pytest.fixture(scope="module")
def provider_process() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


@pytest.fixture
def provider(provider_process: FakeProvider) -> Iterator[FakeProvider]:
    yield provider_process
    provider_process.reset()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, provider_process: FakeProvider
) -> Iterator[ServeProcess]:
    """Two workers, both of which answer."""
    (section,) = fake_section(provider_process.base_url)
    # Those of the tests that leave streams end when they like; they have their own.
    section["chat_models"] = ["gpt*", "slow*"]
    section["embedding_models"] = {"fake-embedding": "embed-3"}
    with serving(
        tmp_path_factory.mktemp("served"),
        server={"workers": 2},
        providers=[section],
        **CONFIG,
    ) as served:
        served.wait_for(lambda: len(scrapes(served)) == 2)
        yield served


class Scrape:
    """What one scrape told, by name and labels."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in families for sample in family.samples]
        self.types = {family.name: family.type for family in families}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, whatever others they have."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"llmbackend_{name}"
            and labels.items() <= sample.labels.items()
        )

    def labels(self, label: str) -> set[str]:
        return {s.labels[label] for s in self.samples if label in s.labels}


def scrapes(server: ServeProcess) -> dict[int, Scrape]:
    """A scrape by each worker, by its process id; nothing else is asked meanwhile."""
    found: dict[int, Scrape] = {}
    alive = {worker.pid for worker in server.workers()}
    for _ in range(50):
        with server.client(headers=BEARER) as client:
            answer = client.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found[process_of(answer, server)] = Scrape(answer.text)
        if alive <= found.keys():
            break
    return found


def process_of(answer: httpx2.Response, server: ServeProcess) -> int:
    """Which worker gave an answer, as the log has it."""
    about = answer.headers["x-request-id"]
    server.wait_for(lambda: about in server.log)
    logged = [json.loads(line) for line in server.log.splitlines()]
    return int(next(x["process"] for x in logged if x["request_id"] == about))


def scrape(server: ServeProcess) -> Scrape:
    with server.client(headers=BEARER) as client:
        return Scrape(client.get("/metrics").text)


def grew(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return after.value(name, **labels) - before.value(name, **labels)


def create(client: httpx2.Client, model: str = "gpt-4o") -> str:
    body = {"title": "Rust", "model": model}
    created = client.post("/api/conversations/create", json=body).json()
    return str(created["conversation_id"])


@contextmanager
def reading(server: ServeProcess, count: int, name: str) -> Iterator[None]:
    """So many streams that have begun, each over a connection of its own."""
    with ExitStack() as stack:
        alice = stack.enter_context(server.signed_in(name))
        texts = []
        for _ in range(count):
            path = f"/api/chat/{create(alice, 'slow-1')}"
            client = stack.enter_context(server.client(headers=alice.headers))
            answer = client.stream("POST", path, json={"message": "Hi"})
            texts.append(stack.enter_context(answer).iter_text())
            next(texts[-1])
        yield


@pytest.mark.parametrize("sent", [None, "", "Bearer wrong", f"Basic {TOKEN}"])
def test_it_is_not_read_without_the_token(
    server: ServeProcess, sent: str | None
) -> None:
    with server.client(headers={} if sent is None else {"Authorization": sent}) as who:
        answer = who.get("/metrics")

    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorized"


def test_a_users_token_does_not_open_it(server: ServeProcess) -> None:
    with server.signed_in("tom") as tom:
        assert tom.get("/metrics").status_code == 401


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text", "text/html"])
def test_it_is_text_whatever_is_accepted(server: ServeProcess, accept: str) -> None:
    with server.client(headers={**BEARER, "Accept": accept}) as client:
        assert client.get("/metrics").status_code == 200


def test_without_a_configured_token_there_is_none(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        for headers in ({}, {"Authorization": "Bearer"}, BEARER):
            assert client.get("/metrics", headers=headers).status_code == 404
        assert not list(tmp_path.glob("*.metrics-*"))


def test_each_worker_tells_what_all_of_them_counted(
    server: ServeProcess, provider: FakeProvider
) -> None:
    provider.default = Script(stall_after=1)
    served: set[int] = set()
    before = scrape(server)
    asked = 0
    while len(served) < 2:
        with server.client() as client:
            served.add(process_of(client.get("/api/users/me"), server))
        asked += 1

    with reading(server, 5, "anna"):
        told = scrapes(server)
        for each in told.values():
            name = "http_request_duration_seconds_count"
            labels = {"route": "/api/users/me", "method": "GET", "status": "401"}
            assert grew(before, each, name, **labels) == asked
            assert each.value("open_streams") == 5
        assert len(told) == 2
    provider.release_all()
    server.wait_for(lambda: scrape(server).value("open_streams") == 0)


def test_a_dead_worker_takes_its_streams_along_and_leaves_its_counts(
    server: ServeProcess, provider: FakeProvider
) -> None:
    provider.default = Script(stall_after=1)
    route = {"route": "/api/users/login", "status": "200"}
    with reading(server, 6, "bert"):
        before = scrape(server)
        victim = max(server.workers(), key=lambda worker: held_by(worker, server))
        victim.kill()
        server.wait_for(lambda: len(set(scrapes(server)) - {victim.pid}) == 2)

        told = scrapes(server)
        left = scrape(server).value("open_streams")
        assert left < 6
        assert victim.pid not in told
        for after in told.values():
            assert after.value("open_streams") == left
            name = "http_request_duration_seconds_count"
            assert after.value(name, **route) == before.value(name, **route) > 0
        # What it was writing is ended by another process.
        name = "answers_orphaned_total"
        server.wait_for(lambda: grew(before, scrape(server), name) == 6 - left)


def held_by(worker: psutil.Process, server: ServeProcess) -> int:
    """How many connections a worker has."""
    connections = worker.net_connections("tcp")
    port = server.port
    return sum(c.status == "ESTABLISHED" and c.laddr.port == port for c in connections)


def test_answers_are_counted_by_model_and_end(
    server: ServeProcess, provider: FakeProvider
) -> None:
    before = scrape(server)
    with server.signed_in("cleo") as cleo:
        for model in ("gpt-4o", "GPT-5-anything"):
            path = f"/api/chat/{create(cleo, model)}"
            assert cleo.post(path, json={"message": "Hi"}).status_code == 200
        provider.default = Script(pieces=["Hel"], cut="rst", cut_after=1)
        assert "error" in cleo.post(path, json={"message": "Hi"}).text
        provider.default = refusal(500)
        assert cleo.post(path, json={"message": "Hi"}).status_code == 502
        provider.reset()
        quoting = f"/api/chat/{create(cleo, 'local-quote')}"
        assert cleo.post(quoting, json={"message": "Hi"}).status_code == 200
    after = scrape(server)

    fake = {"provider": "fake", "model": "gpt*"}
    for end, code, count in (
        ("complete", "", 2),
        ("truncated", "truncated", 1),
        ("failed", "provider_error", 1),
    ):
        labels = {**fake, "end": end, "code": code}
        assert grew(before, after, "answers_total", **labels) == count, labels
    quoted = {"provider": "local", "model": "local-quote", "end": "complete"}
    assert grew(before, after, "answers_total", **quoted) == 1
    assert grew(before, after, "time_to_first_token_seconds_count", **fake) == 3
    call = {"provider": "fake", "call": "chat"}
    assert grew(before, after, "provider_retries_total", **call) == 2
    failed = grew(before, after, "provider_errors_total", **call, code="provider_error")
    assert failed == 1
    assert grew(before, after, "provider_errors_total", **call, code="truncated") == 1
    assert after.labels("model") <= {"gpt*", "slow*", "local-quote"}


def test_documents_are_counted_by_stage_and_end(
    server: ServeProcess, provider: FakeProvider
) -> None:
    provider.routes["/embeddings"] = Embeddings()
    before = scrape(server)
    with server.signed_in("dora") as dora:
        base = {"kb_name": "Birds", "embedding_model": "fake-embedding"}
        kb_id = dora.post("/api/rag/kb/create", json=base).json()["kb_id"]
        for name, body, status in (
            ("a.txt", b"Swifts sleep on the wing.", 200),
            ("b.pdf", b"%PDF-1.4 broken", 400),
        ):
            files = {"file": (name, body)}
            url = "/api/rag/doc/upload"
            answer = dora.post(url, data={"kb_id": kb_id}, files=files)
            assert answer.status_code == status
        question = {"kb_id": kb_id, "query": "Do swifts sleep?"}
        assert dora.post("/api/rag/retrieve", json=question).status_code == 200
    after = scrape(server)

    for stage, count in (("parse", 2), ("embed", 1), ("store", 1)):
        name = "ingestion_stage_seconds_count"
        assert grew(before, after, name, stage=stage) == count
        assert after.value("ingestions_in_progress", stage=stage) == 0
    assert grew(before, after, "ingestions_total", end="ready") == 1
    assert grew(before, after, "ingestions_total", end="unreadable_document") == 1
    assert after.value("index_memory_bytes") > 0


def test_paths_and_methods_make_no_labels(server: ServeProcess) -> None:
    before = scrape(server)
    with server.client() as client:
        for path in ("/nothing", "/api/secret-4711", "/admin/a/b", "/static/x.css"):
            client.get(path)
        client.request("PROPFIND", "/api/chat/4711/stop/")
        client.get("/api/chat/not-a-number/stream")
    name = "http_request_duration_seconds_count"
    streams = {"route": "/api/chat/:conversation_id/stream"}
    # A stream is counted once it is over here, too; its client knows a little before.
    server.wait_for(lambda: grew(before, scrape(server), name, **streams) == 1)
    after = scrape(server)

    assert grew(before, after, name, route="unknown") == 2
    assert grew(before, after, name, route="/admin/") == 1
    assert grew(before, after, name, route="/static/") == 1
    stop = {"route": "/api/chat/:conversation_id/stop", "method": "other"}
    assert grew(before, after, name, **stop) == 1
    assert not any("4711" in route for route in after.labels("route"))


def test_the_loop_is_timed_and_nothing_else_is_told(server: ServeProcess) -> None:
    told = scrape(server)

    assert told.value("event_loop_lag_seconds_count") > 0
    assert all(name.startswith("llmbackend_") for name in told.types)
    assert told.types["llmbackend_open_streams"] == "gauge"
    assert "pid" not in {label for s in told.samples for label in s.labels}


def test_what_was_counted_in_is_removed_at_the_end_and_after_a_kill(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, **CONFIG) as server:
        (kept,) = tmp_path.glob("*.metrics-*")
        assert kept.stat().st_mode & 0o077 == 0
        server.kill()
        (kept / "counter_1.db").write_bytes(b"left by another")

        server.start()
        server.wait_until_ready()

        assert scrape(server).value("http_request_duration_seconds_count") > 0
        server.terminate()
        server.wait(PATIENCE)
        assert not kept.exists()


def test_where_nothing_can_be_counted_the_start_is_refused_in_one_line(
    tmp_path: Path,
) -> None:
    server = ServeProcess(tmp_path, config=CONFIG)
    in_the_way = server.database.with_name(f"served.db.metrics-{server.port}")
    in_the_way.touch()
    server.start()

    assert server.wait(PATIENCE) == 1
    assert server.log == f"{in_the_way}: cannot be made: File exists\n"


def test_a_process_that_has_just_started_keeps_nobody_from_counting(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, **CONFIG) as server:
        (kept,) = tmp_path.glob("*.metrics-*")
        # Made, and not written to yet.
        (kept / "counter_1.db").touch()

        assert scrape(server).value("http_request_duration_seconds_count") > 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/conversations/list", "/api/conversations/list"),
        ("/api/conversations/list/", "/api/conversations/list"),
        ("/api/conversations/7", "/api/conversations/:conversation_id"),
        ("/healthz", "/healthz"),
        ("/admin", "/admin/"),
        ("/api/conversations/7/x", "unknown"),
        ("/administration", "unknown"),
        ("/api/users/me\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_path_has_the_name_of_its_route(path: str, name: str) -> None:
    assert Routes([]).name_of(path) == name
