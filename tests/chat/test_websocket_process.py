"""/ws/chat/<conversation_id> as `manage.py serve` serves it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests import fake_provider
from tests.chat.sockets import opened, path_of, socket_of, token_of
from tests.chat.streams import text_of, up_to
from tests.fake_provider import FakeProvider, Script
from tests.patience import PATIENCE
from tests.served import ServeProcess, fake_section, serving

PAGE = "https://chat.example.com"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


@pytest.fixture(scope="module")
def server(
    provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeProcess]:
    with serving(
        tmp_path_factory.mktemp("served"),
        server={"cors_origins": [PAGE]},
        providers=fake_section(provider.base_url),
    ) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServeProcess) -> Iterator[httpx2.Client]:
    with server.signed_in() as signed_in:
        yield signed_in


@pytest.fixture
def conversation(client: httpx2.Client) -> int:
    body = {"title": "Rust", "model": "gpt-4o"}
    created = client.post("/api/conversations/create", json=body)
    return int(created.raise_for_status().json()["conversation_id"])


@pytest.mark.parametrize("origin", ["https://evil.example", "http://chat.example.com"])
def test_pages_of_foreign_origins_are_refused(
    client: httpx2.Client, conversation: int, origin: str
) -> None:
    path, token = path_of(conversation), token_of(client)
    with (
        pytest.raises(InvalidStatus) as refused,
        opened(client, path, "bearer", token, origin=origin),
    ):
        pass

    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("origin", [PAGE, None])
def test_ours_and_what_is_no_page_are_not(
    client: httpx2.Client, conversation: int, origin: str | None
) -> None:
    path, token = path_of(conversation), token_of(client)
    with opened(client, path, "bearer", token, origin=origin) as socket:
        assert socket.event().name == "ready"


def test_a_frame_of_a_megabyte_closes_its_socket_alone(
    client: httpx2.Client, conversation: int
) -> None:
    with (
        socket_of(client, conversation) as other,
        socket_of(client, conversation) as socket,
    ):
        socket.send("message", message="x" * (1 << 20))
        assert socket.last_words() == ([], 1009)

        other.send("message", message="Hi")
        assert text_of(other.events()) == "Hello!"


def test_a_restart_is_told_and_the_answer_read_on_after_it(
    server: ServeProcess,
    client: httpx2.Client,
    conversation: int,
    provider: FakeProvider,
) -> None:
    provider.enqueue(Script(pieces=["Hello", " there"], stall_after=1))
    with (
        socket_of(client, conversation) as socket,
        socket_of(client, conversation) as idle,
    ):
        socket.send("message", message="Hi")
        seen = up_to(socket.events(), "Hello")
        server.terminate()
        rest, code = socket.last_words()
        assert [event.name for event in rest] == ["usage", "error"]
        assert rest[-1].data["code"] == "interrupted"
        assert code == 1012
        assert idle.last_words() == ([], 1012)
    assert server.wait(PATIENCE) == 0
    server.start()
    server.wait_until_ready()

    with socket_of(client, conversation) as socket:
        socket.send("resume", last_event_id=seen[-1].id)
        again = list(socket.events())
        socket.send("continue")
        assert text_of(socket.events()) == "Hello!"
    assert [event.name for event in again] == ["started", "usage", "error"]
    assert again[-1] == rest[-1]
