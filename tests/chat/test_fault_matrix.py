"""
Everything a provider does wrong, before its first words and after them, in each way
that a client can ask: as lines, as standard events, over a socket, with a base.

Each row asks in all ways at once. Of each it is looked at what the client is told,
what is stored, how often the provider was called, and that the next question is
answered; after each row nothing may be left of it, no connection, task or handle.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings as django_settings

from conversations.models import Conversation, Message
from llmbackend.config import Provider
from tests import conftest, fake_provider
from tests.certificates import self_signed
from tests.chat.eventually import eventually
from tests.chat.ways import WAYS, Told, ask
from tests.conftest import Served, client_of, make_user, until_idle
from tests.fake_provider import ENDLESSLY, FakeProvider, Request, Script, refusal, whole
from tests.patience import PATIENCE
from tests.ports import black_hole
from tests.rag.embeddings import added, make_base

KEY = "sk-configured-key"
LONGEST_ANSWER = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    What a provider does, and what comes of it in every way of asking.

    `status` is that of an answer that has not begun, `calls` how often each question
    is put to the provider and `lasts` how often it fails, `deadlines` those that
    differ from the suite's. With `once_stored` the script waits where it stalls until
    the text so far is in the database.
    """

    script: Script
    status: int = 502
    code: str = ""
    stored: str = "failed"
    text: str = ""
    finish_reason: str = ""
    calls: int = 1
    lasts: int = 99
    deadlines: dict[str, float] = field(default_factory=dict)
    model: str = "gpt-4o"
    once_stored: bool = False


def before(script: Script, code: str = "provider_error", **more: Any) -> Row:
    """A fault before the first words."""
    return Row(script=script, code=code, **more)


def after(script: Script, code: str, stored: str = "failed", **more: Any) -> Row:
    """A fault after "Hello world"."""
    row = Row(script=script, code=code, stored=stored, text="Hello world")
    return replace(row, **more)


def answered(script: Script, text: str, finish_reason: str = "stop") -> Row:
    """What is odd, and an answer."""
    return Row(script=script, stored="complete", text=text, finish_reason=finish_reason)


def passing(script: Script, *, lasts: int = 2) -> Row:
    """A fault that is gone when the question is put again."""
    row = answered(script, "Hello!")
    return replace(row, lasts=lasts, calls=lasts + 1)


NOTHING: dict[str, Any] = {
    "pieces": [],
    "usage": None,
    "finish_reason": None,
    "done": False,
}
BEGUN = {**NOTHING, "pieces": ["Hello ", "world"]}
ROLE: Any = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
ERROR: Any = {"error": {"message": f"no, {KEY}", "code": 1}}
HASTY = {"first_token_timeout": 0.3}
SILENT = {"silence_timeout": 0.3}
ELSEWHERE = {"Location": "/v1/other"}
LATER = {"Retry-After": "120"}
PAGE = Script(body=b"<!doctype html>", headers={"Content-Type": "text/html"})
GZIP = {"Content-Encoding": "gzip"}
X = b"x" * (64 << 10)
LINE_OF_64_MIB: dict[str, Any] = {"tail": b"data: " + X, "repeats": 1023}
LONG_PIECE = "world" * 1000


def chunk(delta: Any, **more: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, **more}]}


def joined(script: Script) -> bytes:
    """All of an answer, to be sent in one packet."""
    return b"".join(script.events())


# 32 MiB of comments and an answer, for whoever inflates it.
BOMB = gzip.compress((b":" + X[:-2] + b"\n") * 512 + joined(Script()), compresslevel=1)

BEFORE = {
    "connection refused": before(Script(), model="refused-1", calls=0),
    "unknown host": before(Script(), model="unknown-1", calls=0),
    "untrusted certificate": before(Script(), model="untrusted-1", calls=0),
    "no answer to a TLS greeting": before(
        Script(),
        "provider_timeout",
        status=504,
        model="plain-1",
        calls=0,
        deadlines={**HASTY, "connect_timeout": 0.05},
    ),
    "no HTTP": before(Script(), model="tls-1", calls=0),
    "no connection": before(
        Script(),
        "provider_timeout",
        status=504,
        model="nowhere-1",
        calls=0,
        deadlines={**HASTY, "connect_timeout": 0.05},
    ),
    "400": before(refusal(400)),
    "404": before(refusal(404)),
    "401": before(refusal(401, ERROR["error"]), "provider_auth"),
    "403": before(refusal(403, ERROR["error"]), "provider_auth"),
    "408": before(refusal(408), calls=3),
    "409": before(refusal(409), calls=3),
    "429": before(refusal(429), "provider_busy", status=503, calls=3),
    "429, come back in a second": passing(
        refusal(429, headers={"Retry-After": "1"}), lasts=1
    ),
    "429, come back much later": before(
        refusal(429, headers=LATER), "provider_busy", status=503
    ),
    "429, no quota": before(
        refusal(429, {"code": "insufficient_quota"}), "provider_busy", status=503
    ),
    "500": before(refusal(500), calls=3),
    "502": before(Script(status=502, body=b"<html>"), calls=3),
    "503": before(refusal(503), calls=3),
    "529": before(refusal(529), calls=3),
    "500, then an answer": passing(refusal(500)),
    "a page": before(PAGE, "provider_protocol"),
    "an answer that is not streamed": answered(whole("Hi 😀"), "Hi 😀"),
    "an empty answer": before(Script(body=b""), "provider_protocol"),
    "no words, but an end": before(Script(pieces=[], usage=None), "empty_answer"),
    "no status line": before(
        Script(stall_at_headers=True), "provider_timeout", status=504, deadlines=HASTY
    ),
    "silence": before(
        Script(stall_after=0), "provider_timeout", status=504, deadlines=HASTY
    ),
    "heartbeats only": before(
        Script(stall_after=0, heartbeat=0.02),
        "provider_timeout",
        status=504,
        deadlines=HASTY,
    ),
    "RST": before(Script(**NOTHING, chunks=[ROLE], cut="rst"), calls=3),
    "FIN": before(Script(**NOTHING, chunks=[ROLE], cut="fin"), calls=3),
    "no end": before(Script(**NOTHING, chunks=[ROLE]), calls=3),
    "RST, then an answer": passing(Script(**NOTHING, chunks=[ROLE], cut="rst")),
    "an error": before(Script(**NOTHING, chunks=[ERROR])),
    "bad JSON": before(Script(prelude=b"data: {bad\n\n"), "provider_protocol"),
    "half JSON": before(Script(body=b'data: {"choi'), "provider_protocol"),
    "bad UTF-8": before(Script(prelude=b'data: {"\xff": 1}\n\n'), "provider_protocol"),
    "a line of 64 MiB": before(
        Script(**NOTHING, **LINE_OF_64_MIB), "provider_protocol"
    ),
    "an endless line": before(
        Script(body=b"data: " + X, repeats=ENDLESSLY), "provider_protocol"
    ),
    "endless chunks": before(
        Script(**NOTHING, chunks=[ROLE], pause=0.001, repeats=ENDLESSLY),
        "provider_timeout",
        status=504,
        deadlines=HASTY,
    ),
    "an endless refusal": before(Script(status=400, body=X, repeats=ENDLESSLY)),
    "301": before(refusal(301, headers=ELSEWHERE)),
    "302": before(refusal(302, headers=ELSEWHERE)),
    "307": before(refusal(307, headers=ELSEWHERE)),
    "308": before(refusal(308, headers=ELSEWHERE)),
    "a gzip bomb": before(Script(body=BOMB, headers=GZIP), "provider_protocol"),
    "a gzip bomb that refuses": before(Script(status=400, body=BOMB, headers=GZIP)),
    "no chunk where one should begin": before(
        Script(**NOTHING, chunks=[ROLE], pause=0.2, cut="garbage"), calls=3
    ),
}

AFTER = {
    # What has not been read when a connection breaks is lost.
    "RST": after(
        Script(**BEGUN, stall_after=2, cut="rst"),
        "truncated",
        "truncated",
        once_stored=True,
    ),
    "FIN": after(
        Script(**BEGUN, stall_after=2, cut="fin"),
        "truncated",
        "truncated",
        once_stored=True,
    ),
    "no end": after(Script(**BEGUN), "truncated", "truncated"),
    "silence": after(
        Script(**BEGUN, stall_after=2), "provider_stalled", deadlines=SILENT
    ),
    "heartbeats only": after(
        Script(**BEGUN, stall_after=2, heartbeat=0.02),
        "provider_stalled",
        deadlines={**SILENT, "total_timeout": 1.2},
    ),
    "an error": after(Script(**BEGUN, chunks=[ERROR]), "provider_error"),
    "bad JSON": after(Script(**BEGUN, tail=b"data: {bad\n\n"), "provider_protocol"),
    "half JSON": after(Script(**BEGUN, tail=b'data: {"cho'), "truncated", "truncated"),
    "bad UTF-8": after(
        Script(**BEGUN, tail=b'data: {"\xff": 1}\n\n'), "provider_protocol"
    ),
    "a line of 64 MiB": after(Script(**BEGUN, **LINE_OF_64_MIB), "provider_protocol"),
    "an endless line": after(
        Script(**BEGUN, tail=b"data: " + X, repeats=ENDLESSLY), "provider_protocol"
    ),
    "endless words": after(
        Script(**{**BEGUN, "pieces": ["Hello ", LONG_PIECE]}, repeats=ENDLESSLY),
        "answer_too_long",
        "truncated",
        text=("Hello " + LONG_PIECE * 210)[:LONGEST_ANSWER],
    ),
    "endless chunks": after(
        Script(**BEGUN, chunks=[ROLE], pause=0.001, repeats=ENDLESSLY),
        "provider_stalled",
        deadlines={"total_timeout": 1.2},
    ),
    "no chunk where one should begin": after(
        Script(**BEGUN, stall_after=2, heartbeat=0.02, cut="garbage"),
        "truncated",
        "truncated",
        once_stored=True,
    ),
}

TEXT = "Grüße, 世界 😀"
MANY = [f"{n} " for n in range(5000)]
ANSWERED = {
    "one byte each 10 ms": answered(
        Script(
            body='data: {"choices":[{"delta":{"content":"é😀"}}]}\n\n'.encode()
            + b"data: [DONE]\n\n",
            slice=1,
            pause=0.01,
        ),
        "é😀",
    ),
    "one byte at a time": answered(Script(pieces=[TEXT], slice=1), TEXT),
    "5,000 events in one packet": answered(
        Script(body=joined(Script(pieces=MANY))), "".join(MANY)
    ),
    "a split code point": answered(
        Script(pieces=["Hi ", "\ud83d", "\ude00"]), "Hi \U0001f600"
    ),
    "half a code point": answered(Script(pieces=["Hi ", "\ud83d"]), "Hi \ufffd"),
    "NUL": answered(Script(pieces=["\x00H", "\x00", "i\x00"]), "Hi"),
    "unknown fields": answered(
        Script(chunks=[chunk({"content": "", "x": [1]}, y={}), {"z": None}]), "Hello!"
    ),
    "no choices": answered(
        Script(chunks=[{"choices": []}, {"choices": None}, {}]), "Hello!"
    ),
    "no delta": answered(Script(chunks=[chunk(None), {"choices": [{}]}]), "Hello!"),
    "all once more at the end": answered(
        Script(chunks=[{"choices": [{"index": 0, "message": {"content": "Hello!"}}]}]),
        "Hello!",
    ),
    "two choices": answered(
        Script(chunks=[{"choices": [{"index": 1, "delta": {"content": "Other"}}]}]),
        "Hello!",
    ),
    "length": answered(Script(finish_reason="length"), "Hello!", "length"),
    "content_filter": answered(
        Script(finish_reason="content_filter"), "Hello!", "content_filter"
    ),
    "NUL in a finish reason": answered(
        Script(finish_reason="st\x00op"), "Hello!", "stop"
    ),
    "half a code point in a finish reason": answered(
        Script(finish_reason="\ud83d"), "Hello!", "\ufffd"
    ),
    "an error after the finish": answered(
        Script(chunks=[chunk({}, finish_reason="stop"), ERROR]), "Hello!"
    ),
    "garbage after [DONE]": answered(Script(tail=b"data: {garbage\n\n\xff"), "Hello!"),
    "words after [DONE]": answered(
        Script(tail=joined(Script(pieces=["more"]))), "Hello!"
    ),
    "no [DONE], and FIN": answered(Script(done=False, framing="close"), "Hello!"),
    "no [DONE], and silence": answered(
        Script(usage=None, done=False, stall_after=4), "Hello!"
    ),
}


class Upstream:
    """The provider in one row: a fault for each question, as often as it lasts."""

    def __init__(self, fault: Script, *, lasts: int) -> None:
        self.calls: Counter[str] = Counter()
        self._fault = fault
        self._lasts = lasts

    def __call__(self, request: Request) -> Script:
        question = request.body["messages"][-1]["content"]
        self.calls[question] += 1
        return self._fault if self.calls[question] <= self._lasts else Script()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProvider]:
    """A provider behind TLS that nobody has a reason to trust."""
    certificate: Path = self_signed(tmp_path_factory.mktemp("tls"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with fake_provider.running(tls=context) as fake:
        yield fake


@pytest.fixture(scope="module")
def served(
    django_db_setup: None,
    django_db_blocker: Any,
    provider_process: FakeProvider,
    encrypted: FakeProvider,
) -> Iterator[Served]:
    """A server of this module's own, with providers that cannot be reached."""
    plain, tls = provider_process.base_url, encrypted.base_url
    before = django_settings.CONFIG
    with black_hole() as address, django_db_blocker.unblock():
        faulty = {
            "refused": "http://127.0.0.1:1/v1",
            "unknown": "http://nobody.invalid/v1",
            "untrusted": tls,
            "plain": plain.replace("http", "https"),
            "tls": tls.replace("https", "http"),
            "nowhere": f"http://{address}/v1",
        }
        providers = [
            Provider(name=name, base_url=url, api_key=KEY, chat_models=(f"{name}*",))
            for name, url in faulty.items()
        ]
        django_settings.CONFIG = replace(
            before, providers=(*before.providers, *providers)
        )
        yield from conftest.serving()
        django_settings.CONFIG = before


@pytest.fixture(scope="module")
def database(
    django_db_setup: None, django_db_blocker: Any, served: Served
) -> Iterator[None]:
    """What the rows store stays until the last has passed."""
    with django_db_blocker.unblock():
        yield
        until_idle(served)
        conftest.remove_rows()


@dataclass(frozen=True)
class Footprint:
    """What the process holds: tasks of the server's loop, sockets and open files."""

    tasks: int
    handles: int


@dataclass(frozen=True)
class Stored:
    """A message that nobody writes any more, as the database has it."""

    status: str
    text: str
    code: str = ""
    finish_reason: str = "stop"


def stored(conversation: int, number: int) -> Stored:
    message = Message.objects.get(conversation=conversation, number=number)
    assert message.writer is None
    return Stored(
        message.status, message.content, message.error_code, message.finish_reason
    )


class Matrix:
    """Alice with a client for each way of asking, and a base to ask."""

    def __init__(self, served: Served, provider: FakeProvider, alice: Any) -> None:
        self.provider = provider
        self.clients = {way: client_of(served, alice) for way in WAYS}
        self.base = make_base(self.clients["rag"])
        added(self.clients["rag"], self.base)
        self._served = served
        self._pool = ThreadPoolExecutor(len(WAYS))
        self.conversations: dict[str, int] = {}
        self._warm_up()

    def _warm_up(self) -> None:
        """Have as many connections made as a row may leave behind, unused."""
        self.begin(model="gpt-4o")
        held = self.provider.default = Script(stall_after=1)
        asking = [self._pool.submit(self._ask, way) for way in WAYS]
        assert self.provider.wait_until(lambda: self.provider.answering == len(WAYS))
        held.release.set()
        assert {each.result() for each in asking} == {Told("Hello!")}
        until_idle(self._served)
        # All clients again: a connection that waited for five seconds is closed, and a
        # row, which begins alike, would be found to have one more until it is.
        self.begin(model="gpt-4o")
        self._before = self.footprint()

    def begin(self, *, model: str) -> None:
        self.conversations = {
            way: client.conversation(model=model)
            for way, client in self.clients.items()
        }

    def ask_in_all_ways(self, *, meanwhile: Callable[[], None]) -> dict[str, Told]:
        asking = {way: self._pool.submit(self._ask, way) for way in WAYS}
        meanwhile()
        return {way: told.result() for way, told in asking.items()}

    def go_on_once_stored(self, row: Row) -> None:
        """Let the provider go on when the text so far is in the database."""
        if row.once_stored:
            streaming = Message.objects.filter(status="streaming", content=row.text)
            assert eventually(lambda: streaming.count() == len(WAYS))
            row.script.release.set()

    def _ask(self, way: str) -> Told:
        client, conversation = self.clients[way], self.conversations[way]
        return ask(way, client, conversation, self.base)

    def stored(self, number: int) -> dict[str, Stored]:
        """A message of each conversation."""
        until_idle(self._served)
        return {
            way: stored(conversation, number)
            for way, conversation in self.conversations.items()
        }

    def footprint(self) -> Footprint:
        process = psutil.Process()
        loop = self._served.application.answers._loop
        counting = asyncio.run_coroutine_threadsafe(_tasks(), loop)
        files = sum(1 for file in process.open_files() if ".db" not in file.path)
        sockets = len(process.net_connections("all"))
        return Footprint(tasks=counting.result(PATIENCE), handles=sockets + files)

    def is_as_before(self) -> bool:
        """Whether nothing is left of what was asked; it may take a moment."""
        until_idle(self._served)
        if not self.provider.wait_until(lambda: self.provider.answering == 0):
            return False
        return eventually(self._has_not_grown)

    def _has_not_grown(self) -> bool:
        now = self.footprint()
        before = self._before
        return now.tasks <= before.tasks and now.handles <= before.handles

    def close(self) -> None:
        self._pool.shutdown()
        for client in self.clients.values():
            client.close()


async def _tasks() -> int:
    return len(asyncio.all_tasks())


@pytest.fixture(scope="module")
def opened(
    served: Served, database: None, provider_process: FakeProvider
) -> Iterator[Matrix]:
    matrix = Matrix(served, provider_process, make_user("alice"))
    yield matrix
    matrix.close()


@pytest.fixture
def matrix(opened: Matrix, provider: FakeProvider) -> Matrix:
    return opened


@contextmanager
def deadlines(settings: Any, changed: dict[str, float]) -> Iterator[None]:
    before = settings.CONFIG
    settings.CONFIG = replace(before, chat=replace(before.chat, **changed))
    yield
    settings.CONFIG = before


def expected(row: Row) -> dict[str, Told]:
    if row.code and not row.text:
        refused = Told(end="refused", code=row.code, status=row.status)
        ended = Told(end="error", code=row.code)
        return {way: ended if way == "socket" else refused for way in WAYS}
    end = "error" if row.code else "done"
    return dict.fromkeys(WAYS, Told(row.text, end, row.code))


@pytest.mark.parametrize(
    "row",
    [
        *(pytest.param(row, id=f"before: {name}") for name, row in BEFORE.items()),
        *(pytest.param(row, id=f"after: {name}") for name, row in AFTER.items()),
        *(pytest.param(row, id=f"whole: {name}") for name, row in ANSWERED.items()),
    ],
)
def test_a_fault_costs_one_answer_at_most_and_leaves_nothing(
    row: Row, matrix: Matrix, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = Upstream(row.script, lasts=row.lasts)
    matrix.provider.routes["/chat/completions"] = upstream
    matrix.begin(model=row.model)

    with deadlines(settings, row.deadlines):
        told = matrix.ask_in_all_ways(meanwhile=partial(matrix.go_on_once_stored, row))

    assert told == expected(row)
    answer = Stored(row.stored, row.text, row.code, row.finish_reason)
    assert matrix.stored(2) == dict.fromkeys(WAYS, answer)
    assert upstream.calls == Counter(dict.fromkeys(WAYS, row.calls))
    assert KEY not in caplog.text
    assert matrix.is_as_before()
    next_is_answered(matrix)


def next_is_answered(matrix: Matrix) -> None:
    """The same conversations go on, with a provider that is well."""
    mended = Conversation.objects.filter(pk__in=matrix.conversations.values())
    mended.update(model="gpt-4o")
    matrix.provider.reset()

    told = matrix.ask_in_all_ways(meanwhile=lambda: None)
    assert set(told.values()) == {Told("Hello!")}
    assert set(matrix.stored(4).values()) == {Stored("complete", "Hello!")}
