"""
What browsers read answers with, on a page of another origin, over a wire that is cut.

Where the documents have an example, that is what runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, Page, require
from tests.browser.site import FETCH_EVENT_SOURCE, Site
from tests.browser.wire import Wire
from tests.chat.eventually import eventually
from tests.chat.sockets import token_of
from tests.conftest import Client
from tests.fake_provider import FakeProvider, Script

API = Path(__file__).resolve().parent.parent.parent / "docs/api.md"
EXAMPLES = re.findall(r"^```js\n(.*?)^```", API.read_text("utf-8"), re.M | re.S)
PIECES = ["Hel", "lo ", "😀 "] + [f"e\u0301{n} " for n in range(20)]
WHOLE = "".join(PIECES)

Open = Callable[[str], AbstractContextManager[Page]]


def example(mark: str) -> str:
    """The example of the documents that has `mark` in it."""
    [found] = [script for script in EXAMPLES if mark in script]
    return str(found)


def test_every_example_is_run_here() -> None:
    marks = ("new EventSource", "fetchEventSource", "new WebSocket")

    assert sorted(EXAMPLES) == sorted(map(example, marks))


@pytest.fixture
def conversation(as_alice: Client) -> int:
    return as_alice.conversation()


@pytest.fixture
def path(conversation: int) -> str:
    return f"/api/chat/{conversation}"


@pytest.fixture
def opened(
    browser: Chromium, pages: Site, wire: Wire, as_alice: Client, conversation: int
) -> Open:
    """Opens a page that runs a script about Alice's conversation."""
    token = token_of(as_alice)
    given = {
        "id": conversation,
        "token": token,
        "headers": {"Authorization": f"Bearer {token}"},
        "message": "Hi",
    }

    def open_page(script: str) -> AbstractContextManager[Page]:
        server = f"http://127.0.0.1:{wire.port}"
        return browser.page(pages.page(script, server=server, given=given))

    return open_page


@pytest.fixture
def held(provider: FakeProvider) -> Script:
    """The next answer, which says "Hello " and waits."""
    script = Script(pieces=PIECES, stall_after=2)
    provider.enqueue(script)
    return script


def is_once(client: Client, conversation: int, provider: FakeProvider) -> bool:
    """Whether there is one question, asked once, and its whole answer."""
    said = [message["content"] for message in client.history(conversation)]
    return said == ["Hi", WHOLE] and len(provider.requests) == 1


@contextmanager
def asked_elsewhere(
    client: Client, path: str, script: Script, provider: FakeProvider
) -> Iterator[None]:
    """A question that no page asks; `script` answers it, to its end when this ends."""
    provider.enqueue(script)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.post, path, json={"message": "Hi"})
        assert provider.wait_until(lambda: bool(provider.requests))
        yield
        script.release.set()
        assert asking.result().status_code == 200


class TestEventSource:
    # Unlike the example it stays open when it is told the end.
    KEPT_OPEN = """
        const asked = fetch(`/api/chat/${id}/ticket`, { method: "POST", headers });
        const { ticket } = await (await asked).json();
        const address = `/api/chat/${id}/stream?format=sse&ticket=${ticket}`;
        globalThis.stream = new EventSource(address);
        stream.addEventListener("started", () => show(""));
        stream.addEventListener("message", ({ data }) => show(JSON.parse(data).data));
    """

    def test_the_example_reads_on_after_a_cut_and_closes(
        self,
        opened: Open,
        wire: Wire,
        path: str,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        with (
            asked_elsewhere(as_alice, path, held, provider),
            opened(example("new EventSource")) as page,
        ):
            page.wait_until("said.join('') === 'Hello '")
            wire.cut()
            assert eventually(lambda: len(wire.asked(f"{path}/stream")) == 2)
            held.release.set()
            page.wait_until(f"said.join('') === '{WHOLE}'")

            assert wire.stays_silent()
            assert page.run("faults") == []
        assert [r.last_event_id for r in wire.asked(f"{path}/stream")] == ["", "2-0-6"]
        assert is_once(as_alice, conversation, provider)

    def test_left_open_it_is_ended_by_a_204(
        self,
        opened: Open,
        wire: Wire,
        path: str,
        as_alice: Client,
        provider: FakeProvider,
    ) -> None:
        held = Script(pieces=PIECES, stall_after=2)
        with (
            asked_elsewhere(as_alice, path, held, provider),
            opened(self.KEPT_OPEN) as page,
        ):
            page.wait_until("said.join('') === 'Hello '")
            wire.cut()
            held.release.set()
            page.wait_until("stream.readyState === EventSource.CLOSED")

            assert page.run("said.join('')") == WHOLE
            assert wire.stays_silent()
        assert wire.asked(f"{path}/stream")[-1].last_event_id.endswith("-end")

    def test_a_cut_before_the_first_piece_loses_nothing(
        self,
        opened: Open,
        wire: Wire,
        path: str,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        silent = Script(pieces=PIECES, stall_at_headers=True)
        with (
            asked_elsewhere(as_alice, path, silent, provider),
            opened(self.KEPT_OPEN) as page,
        ):
            page.wait_until("said.length === 1")
            wire.cut()
            silent.release.set()
            # The answer is over before the browser comes back for it.
            assert eventually(lambda: is_once(as_alice, conversation, provider))
            page.wait_until("stream.readyState === EventSource.CLOSED")

            assert page.run("said.join('')") == WHOLE


class TestFetchEventSource:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        require(
            FETCH_EVENT_SOURCE.is_dir(),
            "fetch-event-source is not installed (npm ci --prefix tests/browser)",
        )

    def test_the_example_reads_on_after_a_cut(
        self,
        opened: Open,
        held: Script,
        wire: Wire,
        path: str,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        with opened(example("fetchEventSource")) as page:
            page.wait_until("said.join('') === 'Hello '")
            wire.cut()
            assert eventually(lambda: len(wire.asked(path)) == 2)
            held.release.set()
            page.wait_until("globalThis.ended")

            assert page.run("said.join('')") == WHOLE
            assert wire.stays_silent()
            assert page.run("faults") == []
        assert [r.last_event_id for r in wire.asked(path)] == ["", "2-0-6"]
        assert is_once(as_alice, conversation, provider)

    # The example does not tell that it was told the end: what the library reads does.
    LISTENING = """
        globalThis.read = [];
        const { decode } = TextDecoder.prototype;
        TextDecoder.prototype.decode = function (...bytes) {
            const text = decode.apply(this, bytes);
            read.push(text);
            return text;
        };
    """

    def test_a_cut_after_the_end_is_ended_by_a_204(
        self, opened: Open, held: Script, wire: Wire, path: str
    ) -> None:
        wire.hold_after = b"event: done"
        held.release.set()
        with opened(self.LISTENING + example("fetchEventSource")) as page:
            page.wait_until("globalThis.read?.includes('done')")
            assert page.run("said.join('')") == WHOLE
            assert not page.run("globalThis.ended")
            wire.cut()
            page.wait_until("globalThis.ended")

            assert page.run("said.join('')") == WHOLE
        assert [r.last_event_id[-4:] for r in wire.asked(path)] == ["", "-end"]

    def test_a_cut_before_anything_came_asks_once(
        self,
        opened: Open,
        wire: Wire,
        path: str,
        as_alice: Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        silent = Script(pieces=PIECES, stall_at_headers=True)
        provider.enqueue(silent)
        with opened(example("fetchEventSource")) as page:
            assert provider.wait_until(lambda: bool(provider.requests))
            wire.cut()
            assert eventually(lambda: len(wire.asked(path)) == 2)
            silent.release.set()
            page.wait_until("globalThis.ended")

            assert page.run("said.join('')") == WHOLE
        assert is_once(as_alice, conversation, provider)

    def test_a_refusal_is_told_and_not_tried_again(
        self, opened: Open, wire: Wire, as_alice: Client, conversation: int
    ) -> None:
        as_alice.post(f"/api/conversations/del/{conversation}")
        with opened(example("fetchEventSource")) as page:
            page.wait_until("faults.length > 0")

            assert wire.stays_silent()
            assert page.run("faults") == ["Uncaught Error: There is nothing here."]

    def test_a_careless_page_is_told_nothing_but_json_and_ended_by_a_204(
        self, opened: Open, held: Script, wire: Wire, path: str, provider: FakeProvider
    ) -> None:
        script = """
            import { fetchEventSource } from "@microsoft/fetch-event-source";
            await fetchEventSource(`/api/chat/${id}`, {
              method: "POST", headers, body: JSON.stringify({ message }),
              onmessage: ({ data }) => show(JSON.parse(data).event),
            });
        """
        wire.hold_after = b"event: done"
        held.release.set()
        with opened(script) as page:
            page.wait_until("said.at(-1) === 'done'")
            wire.cut()
            page.wait_until("globalThis.ended")

            assert page.run("[said[0], said.at(-1)]") == ["started", "done"]
        assert [r.last_event_id[-4:] for r in wire.asked(path)] == ["", "-end"]
        assert len(provider.requests) == 1


def test_a_websocket_signs_in_by_subprotocol(
    opened: Open, as_alice: Client, conversation: int, provider: FakeProvider
) -> None:
    provider.enqueue(Script(pieces=PIECES))
    with opened(example("new WebSocket")) as page:
        page.wait_until(f"said.join('') === '{WHOLE}'")

        assert page.run("faults") == []
    assert eventually(lambda: is_once(as_alice, conversation, provider))
