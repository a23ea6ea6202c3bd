"""The relay, with the real SDK against a provider that misbehaves on a socket."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from chat.relay import (
    Deadlines,
    Delta,
    Finish,
    Limits,
    ModelRequest,
    Usage,
    relay,
)
from llmbackend.config import Provider
from llmbackend.errors import (
    AnswerTooLong,
    EmptyAnswer,
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderStalled,
    ProviderTimeout,
    Truncated,
)
from llmbackend.providers import Clients
from tests import fake_provider
from tests.fake_provider import ENDLESSLY, Script, refusal, whole
from tests.patience import PATIENCE, SOON
from tests.ports import black_hole

KEY = "made-up-key-0123456789"
ASKED = ModelRequest(model="gpt-fake", messages=[{"role": "user", "content": "Hi"}])
PATIENT = Deadlines(first_token=5, silence=5, total=10, tail=0.1)
BRIEF = Deadlines(connect=1, first_token=1, silence=0.4, total=8, tail=0.1)
LIMITS = Limits(backoff=0.01)


@dataclass
class Heard:
    """What a caller of the relay got."""

    deltas: list[Delta] = field(default_factory=list)
    finish: Finish | None = None
    error: Exception | None = None
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    def grow(self, *, text: str, reasoning: str) -> None:
        assert text or reasoning
        self.deltas.append(Delta(text, reasoning))
        self.grown.set()


def begin(heard, client, *, deadlines=PATIENT, limits=LIMITS, request=ASKED, key=KEY):
    return relay(
        heard,
        client=client,
        provider="fake",
        request=request,
        api_key=key,
        deadlines=deadlines,
        limits=limits,
    )


async def hear(client, **more: Any) -> Heard:
    heard = Heard()
    try:
        heard.finish = await begin(heard, client, **more)
    except Exception as exc:  # noqa: BLE001 - the test looks at what was raised
        heard.error = exc
    return heard


@pytest.fixture
def fake():
    with fake_provider.running() as fake:
        yield fake


@pytest.fixture
async def client(fake):
    """A client of the fake, which afterwards holds no connection that it leaked."""
    clients = Clients()
    yield clients.client_for(Provider(name="fake", base_url=fake.base_url))
    assert await fake.until(lambda: fake.answering == 0)
    await clients.aclose()
    assert await fake.until(lambda: fake.open_connections == 0)


def chunk(delta: Any = None, **more: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, **more}]}


# What a request says


async def test_relays_the_text_then_the_finish(fake, client):
    heard = await hear(client)

    assert heard.text == "Hello!"
    assert heard.finish == Finish("stop", Usage(7, 3))


async def test_asks_for_a_stream_with_usage_and_sends_only_what_is_set(fake, client):
    request = ModelRequest(
        model="gpt-fake", messages=ASKED.messages, temperature=0.0, max_tokens=5
    )

    await hear(client, request=request)

    (seen,) = fake.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.api_key == KEY
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body == {
        "model": "gpt-fake",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 5,
    }


async def test_a_request_without_a_key_carries_none(fake, client):
    await hear(client, key="")

    assert "authorization" not in fake.requests[0].headers


async def test_one_connection_serves_answers_that_follow_each_other(fake, client):
    for _ in range(3):
        await hear(client)
        # The end of the body may come behind [DONE].
        assert await fake.until(lambda: fake.answering == 0)
        await asyncio.sleep(0.05)

    assert fake.connections == 1


async def test_one_delta_joins_what_one_read_brought(fake, client):
    script = Script(pieces=["a", "b", "c"], reasoning=["x", "y"])
    fake.enqueue(Script(body=b"".join(script.events())))

    heard = await hear(client)

    assert heard.deltas == [Delta("abc", "xy")]


async def test_a_delta_arrives_before_the_next_is_written(fake, client):
    script = Script(pieces=["one", "two"], stall_after=1)
    fake.enqueue(script)

    heard = Heard()
    relaying = asyncio.create_task(begin(heard, client))
    await heard.grown.wait()
    assert heard.deltas == [Delta("one", "")]
    script.release.set()
    await relaying

    assert heard.deltas == [Delta("one", ""), Delta("two", "")]


# Streams that are odd, and right

TEXT = "Grüße, 世界 😀"

ODD_BUT_WHOLE = {
    "one byte at a time": Script(pieces=[TEXT], slice=1),
    "CRLF": Script(pieces=[TEXT], newline=b"\r\n"),
    "CR, one byte at a time": Script(pieces=[TEXT], newline=b"\r", slice=1),
    "comments": Script(pieces=[TEXT], prelude=b": hello\n\n: again\r\n\r\n"),
    "a byte order mark": Script(pieces=[TEXT], prelude=b"\xef\xbb\xbf"),
    "names and ids": Script(pieces=[TEXT], prelude=b"event: x\nid: 1\nretry: 5\n"),
    "no [DONE]": Script(pieces=[TEXT], done=False),
    "no finish reason": Script(pieces=[TEXT], finish_reason=None),
    "no usage": Script(pieces=[TEXT], usage=None),
    "until the connection closes": Script(pieces=[TEXT], framing="close"),
    "no blank line at the end": Script(
        body=b"".join(Script(pieces=[TEXT]).events()).rstrip()
    ),
    "garbage after [DONE]": Script(
        body=b"".join(Script(pieces=[TEXT]).events()) + b"data: {garbage\n\n\xff"
    ),
    "error after [DONE]": Script(
        body=b"".join(Script(pieces=[TEXT]).events()) + b'data: {"error": "x"}\n\n'
    ),
    "error after the finish": Script(
        pieces=[TEXT], chunks=[chunk({}, finish_reason="stop"), {"error": "late"}]
    ),
    "cut after the finish": Script(pieces=[TEXT], done=False, cut="rst"),
    "silent after the finish": Script(pieces=[TEXT], usage=None, stall_after=2),
    "heartbeats after the finish": Script(
        pieces=[TEXT], usage=None, stall_after=2, heartbeat=0.01
    ),
    "no space after the colon": Script(
        body=b"".join(Script(pieces=[TEXT]).events()).replace(b"data: ", b"data:")
    ),
    "one event on many lines": Script(
        pieces=[],
        prelude=b'data: {"choices": [{"delta":\ndata: {"content":"'
        + TEXT.encode()
        + b'"}}]}\n\n',
    ),
    "empty data": Script(pieces=[TEXT], prelude=b"data:\n\ndata: \n\n"),
    "halves of one emoji": Script(
        chunks=[chunk({"content": "\ud83d"}), chunk({"content": "\ude00"})],
        pieces=[TEXT[:-1]],
    ),
    "NUL": Script(pieces=["\x00" + TEXT[:4], TEXT[4:] + "\x00"]),
    "odd chunks": Script(
        pieces=[TEXT],
        chunks=[
            {},
            {"choices": []},
            {"choices": None},
            {"choices": [None, 1]},
            chunk(None),
            chunk({"content": None, "role": "assistant"}),
            chunk({"content": ""}),
            chunk({"content": 5, "unknown": {"x": [1]}}),
            chunk({"tool_calls": [{"function": {"name": "f"}}]}),
            {"choices": [{"index": 1, "delta": {"content": "other"}}]},
            {"choices": [{}], "usage": "many", "x-extra": 1},
            {"usage": {"prompt_tokens": None, "completion_tokens": None}},
        ],
    ),
    "an encoding that is none": Script(
        pieces=[TEXT], headers={"Content-Encoding": "none"}
    ),
    "content in parts": Script(
        pieces=[], chunks=[chunk({"content": [{"type": "text", "text": TEXT}, 1]})]
    ),
    "one JSON object": whole(TEXT),
    "JSON labelled as events": Script(body=whole(TEXT).body),
    "events labelled as JSON": Script(pieces=[TEXT], headers=fake_provider.JSON),
}


@pytest.mark.parametrize("script", ODD_BUT_WHOLE.values(), ids=ODD_BUT_WHOLE.keys())
async def test_a_stream_that_is_odd_but_whole_is_an_answer(fake, client, script):
    fake.enqueue(script)

    heard = await hear(client)

    assert heard.error is None
    assert heard.text == TEXT
    assert heard.finish is not None
    assert heard.finish.finish_reason == "stop"
    assert len(fake.requests) == 1


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_kept_apart(fake, client, name):
    fake.enqueue(Script(chunks=[chunk({name: "Because"})], pieces=["Hi"]))

    heard = await hear(client)

    assert (heard.text, heard.reasoning) == ("Hi", "Because")


async def test_a_half_that_stays_alone_is_replaced_at_the_end(fake, client):
    fake.enqueue(Script(pieces=["Hi", "\ud83d"]))

    assert (await hear(client)).text == "Hi\ufffd"


@pytest.mark.parametrize(
    ("said", "kept"),
    [("length", "length"), ("content_filter",) * 2, ("sensitive", "content_filter")],
)
async def test_keeps_the_finish_reason_and_lets_it_explain_no_text(
    fake, client, said, kept
):
    fake.default = Script(pieces=[], finish_reason=said)

    heard = await hear(client)

    assert heard.error is None
    assert heard.finish == Finish(kept, Usage(7, 3))


@pytest.mark.parametrize("reason", ["stop", "tool_calls", None])
async def test_a_finish_without_any_text_is_an_error(fake, client, reason):
    fake.enqueue(Script(pieces=[], finish_reason=reason))

    heard = await hear(client)

    assert type(heard.error) is EmptyAnswer
    assert len(fake.requests) == 1


async def test_a_finish_is_not_held_up_by_a_stream_that_goes_on(fake, client):
    fake.enqueue(Script(pieces=["Hi"], usage=None, stall_after=2, heartbeat=0.01))
    started = time.monotonic()

    heard = await hear(client)

    assert heard.finish is not None
    assert time.monotonic() - started < 2


async def test_text_that_follows_a_finish_reason_is_not_lost(fake, client):
    early = [chunk({"content": c}, finish_reason="stop") for c in "abcdef"]
    fake.enqueue(Script(pieces=[], chunks=early, pause=0.05, done=True))

    assert (await hear(client)).text == "abcdef"


async def test_thousands_of_events_in_one_write(fake, client):
    pieces = [f"{n} " for n in range(5000)]
    fake.enqueue(Script(body=b"".join(Script(pieces=pieces).events())))

    heard = await hear(client)

    assert heard.text == "".join(pieces)
    assert len(heard.deltas) < 500


# The SDK as an oracle

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
deltas = st.fixed_dictionaries(
    {}, optional={"content": st.none() | texts, "reasoning_content": texts}
)
choices = st.builds(
    lambda delta, index: {"index": index, "delta": delta, "finish_reason": None},
    deltas,
    st.sampled_from([0, 0, 0, 1]),
)
chunks = st.builds(
    lambda c: {"id": "x", "object": "chat.completion.chunk", "choices": c},
    st.lists(choices, max_size=2),
)


async def heard_by_the_sdk(client):
    text, reasoning = [], []
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    async for part in stream:
        for choice in part.choices:
            if choice.index == 0:
                text.append(choice.delta.content or "")
                extra = choice.delta.model_extra or {}
                reasoning.append(extra.get("reasoning_content") or "")
    return "".join(text), "".join(reasoning)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(chunks, max_size=6),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
    st.sampled_from([0, 1, 2, 3, 7, 100]),
    st.booleans(),
)
async def test_hears_what_the_sdk_hears(fake, client, sent, newline, size, escaped):
    items = [*sent, chunk({"content": "."}, finish_reason="stop")]
    payloads = [json.dumps(item, ensure_ascii=escaped).encode() for item in items]
    body = b"".join(
        b"data: " + payload + newline * 2 for payload in [*payloads, b"[DONE]"]
    )
    fake.enqueue(Script(body=body, slice=size), Script(body=body, slice=size))

    text, reasoning = await heard_by_the_sdk(client)
    heard = await hear(client)

    assert heard.error is None
    assert heard.text == text.replace("\x00", "")
    assert heard.reasoning == reasoning.replace("\x00", "")


# Faults before the first token: (script, error, requests the provider sees)

NO_WORDS: dict[str, Any] = {
    "pieces": [],
    "usage": None,
    "finish_reason": None,
    "done": False,
}
ROLE = chunk({"role": "assistant", "content": ""})

BEFORE = {
    "400": (refusal(400), ProviderError, 1),
    "404": (refusal(404), ProviderError, 1),
    "401": (refusal(401), ProviderAuth, 1),
    "403": (refusal(403), ProviderAuth, 1),
    "408": (refusal(408), ProviderError, 3),
    "409": (refusal(409), ProviderError, 3),
    "429": (refusal(429), ProviderBusy, 3),
    "429, much later": (
        refusal(429, headers={"Retry-After": "120"}),
        ProviderBusy,
        1,
    ),
    "429, later than the deadline": (
        refusal(429, headers={"Retry-After": "10"}),
        ProviderBusy,
        1,
    ),
    "429, no quota": (
        refusal(429, {"code": "insufficient_quota"}),
        ProviderBusy,
        1,
    ),
    "429, in no known form": (
        refusal(429, {"code": {"n": 1}, "type": [KEY]}),
        ProviderBusy,
        3,
    ),
    "500": (refusal(500), ProviderError, 3),
    "502 in HTML": (Script(status=502, body=b"<html>"), ProviderError, 3),
    "503": (refusal(503), ProviderError, 3),
    "529": (refusal(529), ProviderError, 3),
    "301": (refusal(301, headers={"Location": "/v1/other"}), ProviderError, 1),
    "302": (refusal(302, headers={"Location": "/v1/other"}), ProviderError, 1),
    "307": (refusal(307, headers={"Location": "/v1/other"}), ProviderError, 1),
    "308": (refusal(308, headers={"Location": "/v1/other"}), ProviderError, 1),
    "304": (Script(status=304, body=b"", framing="close"), ProviderError, 1),
    "HTML": (
        Script(body=b"\n<!doctype html>", headers={"Content-Type": "text/html"}),
        ProviderProtocol,
        1,
    ),
    "nothing": (Script(body=b""), ProviderProtocol, 1),
    "JSON of another kind": (
        Script(body=b'{"ok": true}', headers=fake_provider.JSON),
        ProviderProtocol,
        1,
    ),
    "half JSON": (
        Script(body=(whole("Hi").body or b"")[:40], headers=fake_provider.JSON),
        ProviderProtocol,
        1,
    ),
    "JSON error with 200": (
        Script(body=b'{"error": {"message": "no"}}'),
        ProviderError,
        1,
    ),
    "gzip": (Script(headers={"Content-Encoding": "gzip"}), ProviderProtocol, 1),
    "more than one encoding": (
        Script(headers={"Content-Encoding": "identity, BR"}),
        ProviderProtocol,
        1,
    ),
    "bad JSON": (Script(prelude=b"data: {bad\n\n"), ProviderProtocol, 1),
    "half JSON at the end": (Script(body=b'data: {"choices"'), ProviderProtocol, 1),
    "bad UTF-8": (Script(prelude=b'data: {"\xff": 1}\n\n'), ProviderProtocol, 1),
    "deep JSON": (
        Script(prelude=b"data: " + b"[" * 9999 + b"\n\n"),
        ProviderProtocol,
        1,
    ),
    "a list": (Script(prelude=b"data: [1]\n\n"), ProviderProtocol, 1),
    "error chunk": (
        Script(prelude=b'data: {"error": {"message": "no"}}\n\n'),
        ProviderError,
        1,
    ),
    "broken off by the model": (
        Script(pieces=[], finish_reason="network_error"),
        ProviderError,
        1,
    ),
    "RST at once": (Script(body=b"", cut="rst"), ProviderError, 3),
    "FIN at once": (Script(body=b"", cut="fin"), ProviderError, 3),
    "RST": (Script(**NO_WORDS, chunks=[ROLE], cut="rst"), ProviderError, 3),
    "FIN": (Script(**NO_WORDS, chunks=[ROLE], cut="fin"), ProviderError, 3),
    "an end": (Script(**NO_WORDS, chunks=[ROLE]), ProviderError, 3),
    "an end by closing": (
        Script(**NO_WORDS, chunks=[ROLE], framing="close"),
        ProviderError,
        3,
    ),
    "no answer": (Script(stall_at_headers=True), ProviderTimeout, 1),
    "no event": (Script(stall_after=0), ProviderTimeout, 1),
    "heartbeats only": (Script(stall_after=0, heartbeat=0.01), ProviderTimeout, 1),
    "a silent refusal": (
        Script(status=400, body=b"said", stall_after=1),
        ProviderTimeout,
        1,
    ),
    "an endless refusal": (
        Script(status=400, body=b"x" * 50_000, repeats=ENDLESSLY),
        ProviderError,
        1,
    ),
    "an endless line": (
        Script(body=b"data: " + b"x" * 50_000, repeats=ENDLESSLY),
        ProviderProtocol,
        1,
    ),
    "an endless header": (Script(headers={"X": "x" * 100_000}), ProviderError, 3),
}


@pytest.mark.parametrize(
    ("script", "error", "requests"), BEFORE.values(), ids=BEFORE.keys()
)
async def test_a_fault_before_the_first_token(
    fake, client, script, error, requests, caplog
):
    fake.default = script
    started = time.monotonic()

    heard = await hear(client, deadlines=BRIEF)

    assert type(heard.error) is error
    assert str(heard.error) == error.__doc__
    assert heard.deltas == []
    assert len(fake.requests) == requests
    assert time.monotonic() - started < 6
    assert KEY not in caplog.text


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_speaks_another_protocol_is_a_failed_provider(scheme):
    async def greet(reader, writer):
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    clients = Clients()
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"{scheme}://127.0.0.1:{port}/v1"
        heard = await hear(clients.client_for(Provider(name="p", base_url=url)))

        assert type(heard.error) is ProviderError
        await clients.aclose()


async def test_a_provider_that_cannot_be_connected_to_in_time():
    clients = Clients()
    with black_hole() as address:
        url = f"http://{address}/v1"
        client = clients.client_for(Provider(name="p", base_url=url))
        started = time.monotonic()

        heard = await hear(client, deadlines=Deadlines(connect=0.1, first_token=5))

        assert type(heard.error) is ProviderTimeout
        assert 0.3 < time.monotonic() - started < 3
        await clients.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "nobody.invalid", "nobody..invalid"])
async def test_a_provider_that_is_not_there(host):
    clients = Clients()
    client = clients.client_for(Provider(name="p", base_url=f"http://{host}/v1"))

    heard = await hear(client)

    assert type(heard.error) is ProviderError
    await clients.aclose()


@pytest.mark.parametrize(
    "fault",
    [
        refusal(503),
        refusal(429, headers={"Retry-After": "0"}),
        Script(**NO_WORDS, chunks=[ROLE], cut="rst"),
    ],
    ids=["503", "429", "RST"],
)
async def test_a_fault_that_passes_is_never_seen(fake, client, fault):
    fake.enqueue(fault, fault)

    heard = await hear(client)

    assert heard.text == "Hello!"
    assert heard.error is None
    assert len(fake.requests) == 3


async def test_waits_as_long_as_the_provider_asks(fake, client):
    fake.enqueue(refusal(429, headers={"Retry-After": "0.4"}))
    started = time.monotonic()

    heard = await hear(client)

    assert heard.text == "Hello!"
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("120", 120),
        ("999999999", 86_400),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 86_400),
    ],
)
async def test_a_busy_provider_says_how_long(fake, client, said, told):
    fake.enqueue(refusal(429, headers={"Retry-After": said}))

    heard = await hear(client)

    assert isinstance(heard.error, ProviderBusy)
    assert heard.error.retry_after == told


async def test_a_key_that_no_header_can_hold_is_not_sent(fake, client):
    heard = await hear(client, key="bad\r\nkey")

    assert type(heard.error) is ProviderAuth
    assert fake.requests == []


async def test_what_the_provider_says_is_logged_with_its_keys_masked(
    fake, client, caplog
):
    said = f"Bad key {KEY}, like sk-proj-SeCrEt123"
    fake.enqueue(refusal(401, {"message": said}))

    heard = await hear(client)

    assert "Bad key ***, like ***" in caplog.text
    assert "Bad key" not in str(heard.error)


@pytest.mark.parametrize(
    ("payload", "logged"),
    [
        (b'{"choices": [{"delta": {"content": "Dear Bob"}}', "delimiter"),
        (b'{"choices": [{"delta": {"content": "Dear Bob\xff"}}]}', "utf-8"),
        (b"upstream is overloaded", "upstream is overloaded"),
    ],
    ids=["half a chunk", "a chunk of no text", "words"],
)
async def test_of_what_is_no_json_the_log_has_no_contents(
    fake, client, caplog, payload, logged
):
    fake.enqueue(Script(prelude=b"data: " + payload + b"\n\n"))

    heard = await hear(client)

    assert type(heard.error) is ProviderProtocol
    assert logged in caplog.text
    assert "Bob" not in caplog.text


# Faults in the middle: (script, error); the words before the fault are kept

KEPT = ["Hello ", "world"]
OPEN: dict[str, Any] = {
    "pieces": KEPT,
    "usage": None,
    "finish_reason": None,
    "done": False,
}

MIDDLE = {
    "RST": (Script(**OPEN, cut="rst"), Truncated),
    "FIN": (Script(**OPEN, cut="fin"), Truncated),
    "an end": (Script(**OPEN), Truncated),
    "an end by closing": (Script(**OPEN, framing="close"), Truncated),
    "silence": (Script(**OPEN, stall_after=2), ProviderStalled),
    "error chunk": (Script(**OPEN, chunks=[{"error": {"code": "x"}}]), ProviderError),
    "error text": (Script(**OPEN, chunks=[{"error": "x"}]), ProviderError),
    "a list": (Script(**OPEN, chunks=[[1]]), ProviderProtocol),
    "a string": (Script(**OPEN, chunks=["x"]), ProviderProtocol),
    "bad JSON": (
        Script(body=b"".join(Script(**OPEN).events()) + b"data: {\n\n"),
        ProviderProtocol,
    ),
    "bad UTF-8": (
        Script(body=b"".join(Script(**OPEN).events()) + b'data: {"\xff": 1}\n\n'),
        ProviderProtocol,
    ),
    "half JSON at the end": (
        Script(body=b"".join(Script(**OPEN).events()) + b'data: {"choi'),
        Truncated,
    ),
    "broken off by the model": (
        Script(pieces=KEPT, finish_reason="network_error"),
        ProviderError,
    ),
    "an endless line": (
        Script(**OPEN, chunks=[chunk({"content": "x" * 3_000_000})]),
        ProviderProtocol,
    ),
}


@pytest.mark.parametrize(("script", "error"), MIDDLE.values(), ids=MIDDLE.keys())
async def test_a_fault_in_the_middle_keeps_the_text_and_is_not_retried(
    fake, client, script, error, caplog
):
    fake.default = script

    heard = await hear(client, deadlines=BRIEF)

    assert type(heard.error) is error
    assert heard.text == "Hello world"
    assert heard.finish is None
    assert len(fake.requests) == 1
    assert KEY not in caplog.text


async def test_heartbeats_are_life_until_the_total_is_reached(fake, client):
    fake.enqueue(Script(**OPEN, stall_after=2, heartbeat=0.02))
    deadlines = Deadlines(first_token=5, silence=0.3, total=0.8)
    started = time.monotonic()

    heard = await hear(client, deadlines=deadlines)

    assert type(heard.error) is ProviderStalled
    assert heard.text == "Hello world"
    assert 0.75 < time.monotonic() - started < 2


async def test_a_stream_that_never_pauses_ends_at_the_total(fake, client):
    fake.enqueue(Script(**OPEN, repeats=ENDLESSLY))
    deadlines = Deadlines(first_token=5, silence=5, total=0.3)

    heard = await hear(
        client, deadlines=deadlines, limits=Limits(answer_characters=10**9)
    )

    assert type(heard.error) is ProviderStalled


async def test_an_endless_answer_is_cut_at_its_limit(fake, client):
    fake.enqueue(Script(**OPEN, repeats=ENDLESSLY))

    heard = await hear(client, limits=Limits(answer_characters=1003))

    assert type(heard.error) is AnswerTooLong
    assert heard.text == ("Hello " + "world" * 200)[:1003]


async def test_reasoning_counts_towards_the_limit(fake, client):
    fake.enqueue(Script(reasoning=["x" * 600], pieces=["y" * 600]))

    heard = await hear(client, limits=Limits(answer_characters=1000))

    assert type(heard.error) is AnswerTooLong
    assert len(heard.text) + len(heard.reasoning) == 1000


async def test_one_large_json_answer_is_bounded(fake, client):
    fake.enqueue(Script(body=b'{"x": "' + b"y" * 50_000, repeats=ENDLESSLY))

    heard = await hear(client, limits=Limits(answer_characters=99, line_bytes=99_999))

    assert type(heard.error) is ProviderProtocol


# Leaving


@pytest.mark.parametrize(
    "script",
    [Script(stall_at_headers=True), Script(stall_after=0), Script(stall_after=1)],
    ids=["before the headers", "before the first token", "in the middle"],
)
async def test_cancelling_a_stalled_read_closes_the_connection(fake, client, script):
    fake.enqueue(script)
    task = asyncio.create_task(hear(client))
    assert await asyncio.to_thread(script.reached.wait, PATIENCE)
    await asyncio.sleep(0.02)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await fake.until(lambda: fake.open_connections == 0, seconds=SOON)
    assert fake.requests[0].client_left_at is not None


async def test_cancelling_while_waiting_to_retry_asks_no_more(fake, client):
    fake.default = refusal(503)
    minutes = Deadlines(first_token=600)
    task = asyncio.create_task(
        hear(client, deadlines=minutes, limits=Limits(backoff=60))
    )
    assert await fake.until(lambda: any(seen.finished for seen in fake.requests))
    await asyncio.sleep(0.02)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(fake.requests) == 1


async def test_a_timeout_leaves_the_task_uncancelled(fake, client):
    fake.enqueue(Script(**OPEN, stall_after=2))

    heard = await hear(client, deadlines=BRIEF)

    assert type(heard.error) is ProviderStalled
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_many_answers_at_once_keep_apart(fake, client):
    def echo(request):
        return Script(pieces=list(request.body["model"]))

    fake.routes["/chat/completions"] = echo
    names = [f"model-{n}" for n in range(60)]

    heard = await asyncio.gather(
        *(hear(client, request=ModelRequest(model=n, messages=())) for n in names)
    )

    assert [one.text for one in heard] == names
