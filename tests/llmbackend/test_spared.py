"""What a serving process does not import, and what that leaves as it is."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmbackend.spared import absent, put_off
from tests import fake_provider
from tests.served import ON_SQLITE, fake_section, serving

# Of ingestion, of other servers, of what is not configured here, and of the SDK what
# nobody asks for. (Python names an import that is refused, too: hence submodules.)
NOT_FOR_AN_ANSWER = {
    "charset_normalizer",
    "daphne",
    "django.test.testcases",
    "docx",
    "lxml",
    "openai.resources.responses.responses",
    "openai.types.responses.response",
    "prometheus_client",
    "psycopg",
    "pygments.lexers",
    "pypdf",
    "redis",
    "requests.sessions",
    "twisted",
    "unittest",
}


def test_an_answer_is_given_without_what_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python then names each module it imports, on standard error.
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with (
        fake_provider.running() as provider,
        serving(
            tmp_path, providers=fake_section(provider.base_url), **ON_SQLITE
        ) as server,
        server.signed_in() as alice,
    ):
        new = {"title": "Rust", "model": "gpt-4o"}
        number = alice.post("/api/conversations/create", json=new).json()
        path = f"/api/chat/{number['conversation_id']}"
        answer = alice.post(path, json={"message": "Hi"})
        assert "full_response" in answer.text
        imported = imported_by(server.log)
        imported_by_a_command = imported_by(server.run("usage_report").stderr)

    assert {"openai", "rest_framework.serializers", "rag.retrieval"} <= imported
    assert imported & NOT_FOR_AN_ANSWER == set()
    # Half of a command's start.
    assert "accounts.content_admin" in imported_by_a_command
    assert imported_by_a_command & {"aiohttp", "openai"} == set()


def imported_by(log: str) -> set[str]:
    return set(re.findall(r"^import time:.*\| +(\S+)$", log, re.M))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package within a package, which notes each time it is run."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("from . import inner\n")
    (inner / "__init__.py").write_text(
        "import pathlib\n"
        "with pathlib.Path(__file__).with_name('runs').open('a') as runs:\n"
        "    runs.write('x')\n"
        "from outer.inner.leaf import LEAF\n"
    )
    (inner / "leaf.py").write_text("LEAF = 'green'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "outer.inner"
    for name in [name for name in sys.modules if name.split(".")[0] == "outer"]:
        del sys.modules[name]


def test_a_package_put_off_runs_once_when_it_is_asked_for(
    package: str, tmp_path: Path
) -> None:
    runs = tmp_path / "outer" / "inner" / "runs"

    put_off(package)
    leaf = importlib.import_module(f"{package}.leaf")
    assert leaf.LEAF == "green"
    assert not runs.exists()

    inner = importlib.import_module("outer").inner
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: inner.LEAF, range(20))) == {"green"}
    with pytest.raises(AttributeError):
        _ = inner.nothing
    assert runs.read_text() == "x"


def test_the_sdk_is_whole() -> None:
    openai = importlib.import_module("openai")

    assert openai.types.responses.Response.__name__ == "Response"
    assert openai.types.Model.__name__ == "Model"


def test_a_module_is_absent_for_a_while_only() -> None:
    json = sys.modules["json"]

    with absent("json", "colorsys"):
        for name in ("json", "colorsys"):
            with pytest.raises(ImportError):
                importlib.import_module(name)

    assert importlib.import_module("json") is json
    assert importlib.import_module("colorsys").rgb_to_hsv
