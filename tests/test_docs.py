"""The documents name everything there is, and nothing that is not there."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from chat import encoders
from conversations.models import Message
from llmbackend import http
from llmbackend.config import Config
from llmbackend.errors import LLMBackendError
from llmbackend.metrics import Instruments
from tests.routes import METHODS, api_routes, socket_paths
from tests.test_errors import CLASSES

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("llmbackend", "accounts", "conversations", "rag", "chat")
NOT_OURS = {".git", ".venv", "node_modules", "__pycache__"}
TEXT = {".md", ".py", ".txt", ".toml", ".yaml", ".yml", ".sh", ".cfg", ".html", ".js"}


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project_files() -> Iterator[Path]:
    """Every text file of the project; what tools and environments leave is not."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if f not in NOT_OURS and f[0] != ".")
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix in TEXT or name in {"Makefile", "LICENSE"}:
                yield path


DOCUMENTS = [path for path in project_files() if path.suffix == ".md"]


class TestRoutes:
    HEADING = re.compile(rf"^### `({'|'.join(METHODS)}) (/\S+)`$", re.MULTILINE)

    def documented(self) -> set[tuple[str, str]]:
        return set(self.HEADING.findall(read("docs/api.md")))

    def test_every_path_has_a_section(self) -> None:
        paths = {path for _, path in self.documented()}

        assert paths == {route.path for route in api_routes()}

    def test_every_socket_is_told(self) -> None:
        assert socket_paths()
        for path in socket_paths():
            assert f"\n`{path}` " in read("docs/api.md")

    def test_every_method_of_a_viewset_has_a_section(self) -> None:
        routes = {(m, route.path) for route in api_routes() for m in route.methods}

        assert routes <= self.documented()

    def test_every_section_is_in_the_table_at_the_top(self) -> None:
        api = read("docs/api.md")

        for method, path in self.documented():
            assert api.count(f"| [`{method} {path}`](#") == 1, path


class TestErrorCodes:
    ROW = re.compile(
        r"^\| `([a-z_]+)` \| (\d{3}) \| (.+) \| (yes|no) \|$", re.MULTILINE
    )

    def test_the_table_says_of_each_what_the_code_says(self) -> None:
        told = {row[0]: row[1:] for row in self.ROW.findall(read("docs/api.md"))}

        assert told == {kind.code: self.row(kind) for kind in CLASSES}
        assert len(self.ROW.findall(read("docs/api.md"))) == len(CLASSES)

    def row(self, kind: type[LLMBackendError]) -> tuple[str, str, str]:
        error = kind()
        retryable = "yes" if kind.retryable else "no"
        return str(http.status_of(error)), str(error), retryable


class TestStreams:
    def test_every_status_of_a_message_is_told(self) -> None:
        for status in Message.Status.values:
            assert f"\n| `{status}` | " in read("docs/api.md")

    def test_every_event_is_told(self) -> None:
        source = Path(encoders.__file__).read_text(encoding="utf-8")
        told = r'(?:self\._(?:line|frame)\(|yield|return)\s*"(\w+)"'
        events = set(re.findall(told, source))

        assert {"message", "done", "full_response", "error", "started"} <= events
        assert {"sources", "reasoning", "usage"} <= events
        for event in events:
            assert f"\n| `{event}` | " in read("docs/api.md")


def config_keys() -> set[str]:
    """Every key of config.yaml, such as `server.port` and `providers.name`."""
    keys = set()
    for section, hint in get_type_hints(Config).items():
        kind = next(k for k in (*get_args(hint), hint) if dataclasses.is_dataclass(k))
        keys |= {f"{section}.{field.name}" for field in dataclasses.fields(kind)}
    return keys


def keys_in_table(document: str) -> set[str]:
    """The keys that begin a row, such as | `server.port` |."""
    sections = "|".join(get_type_hints(Config))
    row = re.compile(rf"^\| `((?:{sections})\.\w+)` \|", re.MULTILINE)
    return set(row.findall(read(document)))


class TestConfiguration:
    def test_every_key_is_told(self) -> None:
        assert keys_in_table("docs/config.md") == config_keys()

    def test_the_readme_names_keys_that_exist(self) -> None:
        named = keys_in_table("README.md")

        assert named
        assert named <= config_keys()


class TestMetrics:
    def test_each_has_a_row_with_its_labels(self) -> None:
        row = re.compile(r"^\| `llmbackend_(\w+)` \| (.*?) \|", re.MULTILINE)
        told = {
            name: tuple(re.findall(r"`(\w+)`", labels))
            for name, labels in row.findall(read("docs/metrics.md"))
        }

        assert told == {
            each._name.removeprefix("llmbackend_")
            + ("_total" if each._type == "counter" else ""): each._labelnames
            for each in vars(Instruments()).values()
        }


def our_commands() -> dict[str, BaseCommand]:
    """`manage.py` commands of the project's own packages."""
    return {
        name: load_command_class(app, name)
        for name, app in get_commands().items()
        if app in PACKAGES
    }


def own_options(name: str, command: BaseCommand) -> Iterator[str]:
    """The options a command adds to what it is made from, hidden ones excepted."""
    lineage = type(command).__mro__
    base = next(k for k in lineage if k.__module__.split(".")[0] not in PACKAGES)
    inherited = {action.dest for action in parser_of(name, base())}
    for action in parser_of(name, command):
        if action.help != argparse.SUPPRESS and action.dest not in inherited:
            yield action.option_strings[-1] if action.option_strings else action.dest


def parser_of(name: str, command: BaseCommand) -> list[Any]:
    return command.create_parser("manage.py", name)._actions


class TestCommands:
    def section(self, name: str) -> str:
        parts = re.split(r"^## ", read("docs/commands.md"), flags=re.MULTILINE)
        titled = {part.partition("\n")[0]: part for part in parts}
        return titled.get(f"`manage.py {name}`", "")

    def test_there_are_some(self) -> None:
        assert "serve" in our_commands()

    def test_every_command_has_help_and_a_section(self) -> None:
        for name, command in our_commands().items():
            assert command.help, name
            assert self.section(name), name

    def test_every_option_is_told(self) -> None:
        for name, command in our_commands().items():
            for option in own_options(name, command):
                assert f"`{option}`" in self.section(name), (name, option)

    def test_every_section_is_of_a_command_that_exists(self) -> None:
        told = re.findall(r"^## `manage.py (\w+)`$", read("docs/commands.md"), re.M)

        assert set(told) <= set(get_commands())


class TestReliability:
    NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")

    def test_every_test_it_names_exists(self) -> None:
        named = self.NAMED.findall(read("docs/reliability.md"))

        assert len(named) > 40
        for file, test in named:
            path = file if "/" in file else f"tests/rag/{file}"
            assert f"def {test}(" in read(path), (path, test)

    def test_every_row_names_one(self) -> None:
        tables = re.findall(r"(?:^\|.*\|\n)+", read("docs/reliability.md"), re.M)
        rows = [row for table in tables for row in table.splitlines()[2:]]

        assert len(tables) >= 3
        assert all(self.NAMED.search(row) for row in rows)


def links_in(document: Path) -> Iterator[str]:
    """Where the links of a document lead, those in code blocks excepted."""
    text = re.sub(
        r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors_of(document: Path) -> set[str]:
    """The anchors that headings have on the usual forges."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in headings
    }


class TestDocuments:
    @pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
    def test_every_link_leads_somewhere(self, document: Path) -> None:
        for link in links_in(document):
            if re.match(r"https?:|mailto:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (document.parent / name).resolve() if name else document

            assert target.exists(), link
            assert target.is_relative_to(ROOT), link
            if anchor:
                assert anchor in anchors_of(target), link

    @pytest.mark.parametrize(
        # Each version in the changelog has its "Added".
        "document",
        [path for path in DOCUMENTS if path.name != "CHANGELOG.md"],
        ids=lambda path: path.name,
    )
    def test_no_two_headings_of_a_document_are_alike(self, document: Path) -> None:
        text = document.read_text(encoding="utf-8")
        headings = re.findall(r"^#+ .+$", text, re.M)

        assert len(headings) == len(set(headings))

    def test_the_architecture_fits_on_two_pages(self) -> None:
        assert len(read("ARCHITECTURE.md").splitlines()) < 150

    def test_the_architecture_names_modules_that_exist(self) -> None:
        named = re.findall(
            rf"(?<!/)\b((?:{'|'.join(PACKAGES)})/[\w/]+\.py)", self.both()
        )

        assert named
        for name in named:
            assert (ROOT / name).is_file(), name

    def both(self) -> str:
        return read("ARCHITECTURE.md") + read("CONTRIBUTING.md")


class TestWhatIsNotSaid:
    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            (r"\b[Ii]ssues? #?\d+\b", "a number nobody can look up"),
            (r"[/]work/", "a folder of the machine it was written on"),
            (r"[/](?:home/|Users/)\w+/", "somebody's own folder"),
            (r"^(?:<{7} |>{7} |={7}$)", "a merge that was not finished"),
        ],
    )
    def test_no_file_of_the_project_has(self, pattern: str, reason: str) -> None:
        search = re.compile(pattern, re.MULTILINE).search
        found = [
            str(path.relative_to(ROOT))
            for path in project_files()
            if search(path.read_text(encoding="utf-8"))
        ]

        assert found == [], reason


class TestChineseReadme:
    """README_zh-CN.md says what README.md says."""

    def test_it_shows_the_same_commands_and_answers(self) -> None:
        blocks = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

        english, chinese = read("README.md"), read("README_zh-CN.md")

        assert blocks.findall(chinese) == blocks.findall(english)

    def test_it_has_the_same_shape(self) -> None:
        shape = re.compile(r"^(#+ |\| `[^`]+`|- \[[^]]+\])", re.MULTILINE)

        english, chinese = read("README.md"), read("README_zh-CN.md")

        assert shape.findall(chinese) == shape.findall(english)

    def test_each_leads_to_the_other_at_once(self) -> None:
        first = [read(name)[:80] for name in ("README.md", "README_zh-CN.md")]

        assert "(README_zh-CN.md)" in first[0]
        assert "(README.md)" in first[1]
