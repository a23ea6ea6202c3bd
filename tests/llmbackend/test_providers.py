"""Which provider serves a model, and what its failures are called."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx2
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from llmbackend.chat_models import provider_for
from llmbackend.config import (
    Accounts,
    Chat,
    Config,
    Database,
    Jwt,
    Local,
    Provider,
    Rag,
    Redis,
    Server,
    Sqlite,
)
from llmbackend.errors import (
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderTimeout,
    UnknownModel,
)
from llmbackend.providers import (
    Clients,
    authorization,
    may_be_retried,
    retry_after,
    translated,
    translated_errors,
)
from tests import fake_provider
from tests.fake_provider import Script, refusal
from tests.logged import logged_here

KEY = "made-up-key-0123456789"


@pytest.fixture
def config(tmp_path):
    openai_like = Provider(
        name="openai", base_url="http://a/v1", chat_models=("gpt*", "o1*")
    )
    zhipu_like = Provider(name="zhipu", base_url="http://b/v1", chat_models=("GLM*",))
    rest = Provider(name="rest", base_url="http://c/v1", chat_models=("gpt-4*", "x?"))
    return Config(
        server=Server(),
        redis=Redis(),
        sqlite=Sqlite(path=tmp_path / "x.db"),
        database=Database(),
        jwt=Jwt(),
        accounts=Accounts(),
        providers=(openai_like, zhipu_like, rest),
        local=Local(),
        rag=Rag(),
        chat=Chat(),
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "openai"),
        ("GPT-4o", "openai"),
        ("o1", "openai"),
        ("glm-4.5", "zhipu"),
        ("x1", "rest"),
    ],
)
def test_the_first_provider_whose_pattern_matches_serves_a_model(config, model, name):
    assert provider_for(model, config=config).name == name


@pytest.mark.parametrize("model", ["", "claude-3", "x", "my-gpt", "m" * 5000])
def test_a_model_nobody_serves_is_named_in_the_error(config, model):
    with pytest.raises(UnknownModel) as caught:
        provider_for(model, config=config)

    assert model[:100] in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_empty_key_sends_no_authorization():
    assert isinstance(authorization("")["Authorization"], openai.Omit)


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "密钥", "a b", "a\x00"])
def test_a_key_no_header_can_hold_is_refused(key):
    with pytest.raises(ProviderAuth):
        authorization(key)


def status_error(status, *, headers=None, error=None):
    request = httpx2.Request("POST", "http://a/v1/chat/completions")
    response = httpx2.Response(status, headers=headers, request=request)
    return openai.APIStatusError("said", response=response, body=error)


@pytest.mark.parametrize(
    ("status", "expected", "retried"),
    [
        (302, ProviderError, False),
        (400, ProviderError, False),
        (401, ProviderAuth, False),
        (403, ProviderAuth, False),
        (404, ProviderError, False),
        (408, ProviderError, True),
        (409, ProviderError, True),
        (429, ProviderBusy, True),
        (500, ProviderError, True),
        (529, ProviderError, True),
    ],
)
def test_each_status_has_an_error_and_a_retry_rule(status, expected, retried):
    exc = status_error(status)

    assert type(translated(exc, provider="p", api_key=KEY)) is expected
    assert may_be_retried(exc) is retried


@pytest.mark.parametrize(
    "error",
    [{"code": "insufficient_quota"}, {"type": "insufficient_quota"}, {"code": 1113}],
)
def test_a_used_up_quota_is_not_retried(error):
    assert not may_be_retried(status_error(429, error=error))


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("0", 0), ("1.5", 1.5)])
def test_reads_retry_after_in_seconds(value, seconds):
    assert retry_after(status_error(429, headers={"Retry-After": value})) == seconds


@pytest.mark.parametrize(("ahead", "low", "high"), [(100, 90, 100), (-100, 0, 0)])
def test_reads_retry_after_as_a_date(ahead, low, high):
    date = formatdate(time.time() + ahead, usegmt=True)

    seconds = retry_after(status_error(429, headers={"Retry-After": date}))

    assert seconds is not None
    assert low <= seconds <= high


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "9" * 400, "Mon"])
def test_takes_a_senseless_retry_after_for_none(value):
    assert retry_after(status_error(429, headers={"Retry-After": value})) is None


def test_a_busy_provider_always_says_when_to_come_back():
    error = translated(status_error(429), provider="p", api_key=KEY)

    assert error.retry_after == 30


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "sk-proj-abc_DEF-123",
        "gsk_abcdef123456",
        "AIzaSyAbcdef123",
        "0123456789abcdef0123456789abcdef.Zz9AbCdEf",
    ],
)
def test_no_key_reaches_the_log_or_the_message(caplog, secret):
    said = f'Incorrect API key "{secret}" (Bearer {secret})' + "x" * 9000
    exc = openai.OpenAIError(said)

    error = translated(exc, provider="p", api_key=KEY)

    assert "Incorrect API key" in caplog.text
    assert secret not in caplog.text
    assert len(caplog.text) < 800
    assert str(error) == ProviderError.__doc__


def test_what_a_provider_says_stays_one_line_of_the_log(caplog):
    translated(openai.OpenAIError("a\r\nERROR forged"), provider="p", api_key="")

    [told] = logged_here(caplog)
    assert len(told.getMessage().splitlines()) == 1


@pytest.fixture
async def clients():
    clients = Clients()
    yield clients
    await clients.aclose()


async def embedded(client):
    with translated_errors(provider="fake", api_key=KEY):
        return await client.post(
            "/embeddings",
            cast_to=CreateEmbeddingResponse,
            body={"model": "m", "input": ["a"]},
            options={"headers": authorization(KEY), "timeout": 0.5},
        )


async def test_one_client_serves_every_key_of_a_provider(clients):
    with fake_provider.running() as fake:
        fake.routes["/embeddings"] = lambda _: Script(
            body=b'{"data": [], "model": "m"}',
            headers={"Content-Type": "application/json"},
        )
        provider = Provider(name="fake", base_url=fake.base_url)
        client = clients.client_for(provider)

        await embedded(client)
        await embedded(client)

        assert clients.client_for(provider) is client
        assert fake.requests[0].api_key == KEY
        assert fake.connections == 1
        await clients.aclose()
        assert await fake.until(lambda: fake.open_connections == 0)


@pytest.mark.parametrize("variable", ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
async def test_the_environment_adds_nothing_to_a_request(
    clients, monkeypatch, variable
):
    monkeypatch.setenv(variable, "from-the-environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with fake_provider.running() as fake:
        fake.routes["/embeddings"] = lambda _: Script(
            body=b"{}", headers={"Content-Type": "application/json"}
        )

        await embedded(clients.client_for(Provider(name="f", base_url=fake.base_url)))

        assert "from-the-environment" not in str(fake.requests[0].headers)
        await clients.aclose()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (refusal(401), ProviderAuth),
        (refusal(429, headers={"Retry-After": "9"}), ProviderBusy),
        (Script(status=500, body=b"x" * 100_000), ProviderError),
        (Script(status=500, stall_after=1, body=b"said"), ProviderError),
        (Script(status=500, headers={"Content-Encoding": "gzip"}), ProviderError),
        (Script(cut="rst", cut_after=0), ProviderError),
        (Script(stall_at_headers=True), ProviderTimeout),
        (refusal(307, headers={"Location": "/elsewhere"}), ProviderError),
    ],
)
async def test_a_failed_call_raises_our_error(clients, script, expected):
    with fake_provider.running() as fake:
        fake.routes["/embeddings"] = lambda _: script
        client = clients.client_for(Provider(name="fake", base_url=fake.base_url))

        with pytest.raises(expected) as caught:
            await embedded(client)

        assert type(caught.value) is expected
        assert len(fake.requests) == 1
        assert await fake.until(lambda: fake.answering == 0)
        await clients.aclose()
