"""manage.py serve, as an operator meets it."""

from __future__ import annotations

import http.client
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml

from tests import fake_provider, redis_server
from tests.fake_provider import FakeProvider
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.served import ROOT, ServeProcess, fake_section, serving


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider
) -> Iterator[ServeProcess]:
    """One worker; its Redis is configured and not there."""
    with serving(
        tmp_path_factory.mktemp("served"),
        from_nothing=True,
        providers=fake_section(provider.base_url),
        redis={"address": f"127.0.0.1:{free_port()}"},
    ) as served:
        yield served


def test_it_says_what_it_reached_in_this_order(server: ServeProcess) -> None:
    lines = server.stdout.splitlines()

    if server.kind == "SQLite":
        assert "jwt.secret is empty" in lines.pop(0)
    assert re.match(r"Redis at 127\.0\.0\.1:\d+ cannot be reached", lines[0])
    assert lines[1] == f"{server.kind} initialized successfully!"
    assert lines[2] == f"Server is running on port {server.port}"


def test_the_printed_lines_work_as_printed(server: ServeProcess) -> None:
    lines = [x for x in server.stdout.splitlines() if x.startswith("  ")]
    assert len(lines) == 3

    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )

    assert "registered successfully" in done.stdout
    assert '{"event": "full_response", "data": "Hello!"}' in done.stdout.replace(
        '":"', '": "'
    ).replace('","', '", "')


def test_where_registration_is_closed_the_first_account_is_made_by_a_command(
    tmp_path: Path,
) -> None:
    who = {"username": "root", "password": "correct horse battery"}
    options = ["--noinput", "--username=root", "--email="]
    with (
        serving(tmp_path, accounts={"registration": "closed"}) as server,
        server.client() as client,
    ):
        registering = client.post("/api/users/register", json=who)
        before = client.post("/api/users/login", json=who)
        secret = who["password"]
        server.manage("createsuperuser", *options, DJANGO_SUPERUSER_PASSWORD=secret)
        after = client.post("/api/users/login", json=who)

    assert registering.status_code == 403
    assert (before.status_code, after.status_code) == (401, 200)
    assert "createsuperuser" in server.stdout
    assert "curl" not in server.stdout


def test_memory_stays_when_a_body_of_200_mb_arrives(server: ServeProcess) -> None:
    process = psutil.Process(server.process.pid)
    with server.client() as client:
        client.get("/readyz")
    before = process.memory_info().rss

    for declared in (True, False):
        assert upload(server, megabytes=200, declared=declared) in {413, None}

    assert process.memory_info().rss - before < 8 << 20


def upload(server: ServeProcess, *, megabytes: int, declared: bool) -> int | None:
    """The status of a POST that sends on whatever the server says; None if cut off."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    headers = {"Content-Length": str(megabytes << 20)} if declared else {}
    parts = (b"x" * (1 << 20) for _ in range(megabytes))
    path = "/api/conversations/create"
    try:
        connection.request(
            "POST", path, body=parts, headers=headers, encode_chunked=not declared
        )
        return connection.getresponse().status
    except ConnectionError:
        return None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def admin(server: ServeProcess) -> Iterator[httpx2.Client]:
    """A browser in which a superuser has logged in."""
    secret = "correct horse battery"
    server.signed_in("root").close()
    server.query(
        "UPDATE accounts_user SET is_staff = true, is_superuser = true"
        " WHERE username = 'root'"
    )
    with server.client(follow_redirects=True) as browser:
        page = browser.get("/admin/")
        answer = browser.post(
            "/admin/login/?next=/admin/",
            data={
                "username": "root",
                "password": secret,
                "csrfmiddlewaretoken": hidden_token(page.text),
            },
            headers={"Referer": f"{server.base_url}/admin/login/"},
        )
        assert answer.status_code == 200
        assert answer.url.path == "/admin/"
        yield browser


class TestAdmin:
    def test_every_change_list_and_add_form_loads(self, admin: httpx2.Client) -> None:
        index = admin.get("/admin/").text
        paths = set(re.findall(r'href="(/admin/\w+/\w+/(?:add/)?)"', index))

        assert "/admin/accounts/user/" in paths
        for path in paths:
            assert admin.get(path).status_code == 200, path

    def test_its_style_sheets_and_scripts_are_served(
        self, admin: httpx2.Client
    ) -> None:
        index = admin.get("/admin/").text
        files = re.findall(r'(?:href|src)="(/static/[^"]+)"', index)

        assert files
        for path in files:
            answer = admin.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    def test_a_form_without_the_csrf_token_is_refused(
        self, admin: httpx2.Client
    ) -> None:
        assert admin.post("/admin/logout/").status_code == 403


def hidden_token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found
    return found[1]


def test_it_opens_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limited = ServeProcess(tmp_path, config={})
    limited.program = (
        "-c",
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {most}))\n"
        f"os.execv(sys.executable, [sys.executable, {str(ROOT / 'manage.py')!r},"
        " *sys.argv[1:]])",
    )
    try:
        limited.start()
        limited.wait_until_ready()
        process = psutil.Process(limited.process.pid)
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (most, most)
    finally:
        limited.kill()


def test_a_taken_port_is_one_clear_line(server: ServeProcess, tmp_path: Path) -> None:
    second = ServeProcess(tmp_path, config={"server": {"port": server.port}})
    second.start()

    assert second.wait(PATIENCE) == 1
    assert second.log.strip() == (
        f"CommandError: Cannot listen on 127.0.0.1:{server.port}: "
        "Address already in use. Another program uses it; "
        "server.port in config.yaml names it."
    )


def test_a_database_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    config = {"database": {"url": f"postgresql://u:secret@127.0.0.1:{free_port()}/x"}}
    server = ServeProcess(tmp_path, config={**config, "jwt": {"secret": "x" * 32}})
    server.start()

    assert server.wait(PATIENCE) == 1
    assert server.log.startswith("CommandError: The database cannot be used: ")
    assert len(server.log.strip().splitlines()) == 1
    assert "secret" not in server.log


def test_runserver_serves_the_same(
    server: ServeProcess, provider: FakeProvider
) -> None:
    """Daphne, for development; here beside the other server, on its database."""
    second = ServeProcess(
        server.directory, config={"providers": fake_section(provider.base_url)}
    )
    try:
        second.start("--noreload", str(second.port), command="runserver")
        second.wait_until_ready()
        with second.signed_in("bob") as bob:
            assert_chat_streams(bob)
            assert bob.get("/nope").json()["code"] == "not_found"
            assert bob.get("/static/admin/css/base.css").status_code == 200
    finally:
        second.kill()


def assert_chat_streams(client: httpx2.Client) -> None:
    body = {"title": "Rust", "model": "gpt-4o"}
    created = client.post("/api/conversations/create", json=body).json()
    path = f"/api/chat/{created['conversation_id']}"
    answer = client.post(path, json={"message": "Hi"})
    assert answer.status_code == 200
    assert "full_response" in answer.text


@contextmanager
def redis() -> Iterator[str]:
    """The address of a Redis; empty where there is none to start."""
    if not redis_server.available():
        yield ""
        return
    with redis_server.running() as running:
        yield running.address


class TestWorkers:
    def test_a_dead_one_is_replaced_and_sigterm_ends_all(
        self, tmp_path: Path, provider: FakeProvider
    ) -> None:
        providers = fake_section(provider.base_url)
        with (
            redis() as address,
            serving(
                tmp_path,
                server={"workers": 2},
                providers=providers,
                redis={"address": address},
            ) as server,
        ):
            if address:
                assert "Connected to Redis successfully!" in server.stdout
            # A worker may answer a moment before the supervisor says so.
            server.wait_for(lambda: "Server is running on port" in server.stdout)
            server.wait_for(lambda: len(listeners(server)) == 2)
            assert server.stdout.count("Server is running on port") == 1
            first = server.workers()

            first[0].kill()
            server.wait_for(lambda: first[0] not in server.workers())
            server.wait_for(lambda: len(listeners(server)) == 2)
            with server.signed_in() as alice:
                assert_chat_streams(alice)
            workers = server.workers()
            server.terminate()

            # How soon is for test_shutdown.
            assert server.wait(PATIENCE) == 0
            assert not any(worker.is_running() for worker in workers)

    def test_they_find_the_configuration_that_a_relative_path_names(
        self, tmp_path: Path
    ) -> None:
        server = ServeProcess(tmp_path, config={"server": {"workers": 2}})
        try:
            server.start(folder=tmp_path)
            server.wait_until_ready()
        finally:
            server.kill()

    def test_where_none_comes_to_serve_the_server_ends(self, tmp_path: Path) -> None:
        """Each Python that is started as a worker ends before it does anything."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\nif '--worker' in sys.orig_argv:\n    os._exit(7)\n"
        )
        config = {"server": {"workers": 2}}
        server = ServeProcess(tmp_path, config=config, from_nothing=True)

        done = server.run("serve", PYTHONPATH=str(tmp_path))

        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "CommandError: No worker came to serve: each ended at its start."
        ]
        assert "Server is running" not in done.stdout

    def test_those_that_die_again_and_again_are_replaced_each_time(
        self, tmp_path: Path
    ) -> None:
        with serving(tmp_path, server={"workers": 2}) as server:
            server.wait_for(lambda: len(listeners(server)) == 2)
            for _ in range(3):
                kill_workers(server)
                server.wait_for(lambda: len(listeners(server)) == 2)

            assert server.is_ready()

    def test_a_new_one_takes_no_secret_that_was_written_since(
        self, tmp_path: Path
    ) -> None:
        with serving(tmp_path, server={"workers": 2}) as server:
            alice = server.signed_in()
            written = yaml.safe_load(server.config_file.read_text())
            written["jwt"] = {"secret": "another secret of 32 bytes or more"}
            server.config_file.write_text(yaml.safe_dump(written))

            kill_workers(server)
            server.wait_until_ready()

            with alice:
                assert alice.get("/api/users/me").status_code == 200

    def test_none_outlives_its_supervisor(self, tmp_path: Path) -> None:
        with serving(tmp_path, server={"workers": 2}) as server:
            server.wait_for(lambda: len(server.workers()) == 2)
            workers = server.workers()

            server.process.kill()
            server.process.wait()

            _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
            assert not alive


def kill_workers(server: ServeProcess) -> None:
    """Kill those there are, and wait until the supervisor has noticed."""
    dead = server.workers()
    for worker in dead:
        worker.kill()
    _, alive = psutil.wait_procs(dead, timeout=PATIENCE)
    assert not alive


def listeners(server: ServeProcess) -> list[psutil.Process]:
    """The workers that take connections by now: their event loop runs."""
    is_up: Callable[[psutil.Process], bool] = lambda each: each.num_threads() > 1  # noqa: E731
    return [worker for worker in server.workers() if is_up(worker)]
