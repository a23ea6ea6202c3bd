"""Which tests run together where there are several workers, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# A PostgreSQL and a browser are started for all tests of a folder.
TOGETHER = ("tests/postgresql/", "tests/browser/")
# What takes longest, so that no worker is left alone with it at the end.
FIRST = (
    "tests/rag/test_kills.py",
    *TOGETHER,
    "tests/test_",
    "tests/benchmarks/",
    "tests/llmbackend/",
    "tests/rag/test_pa",
    "tests/rag/test_hostile_uploads.py",
)


class ByFile(LoadScopeScheduling):
    """Gives a worker whole files, for whose tests a server is started but once."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        folders = [folder for folder in TOGETHER if nodeid.startswith(folder)]
        return folders[0] if folders else nodeid.partition("::")[0]


def turn(item: pytest.Item) -> int:
    """The lower, the sooner."""
    turns = [n for n, path in enumerate(FIRST) if item.nodeid.startswith(path)]
    return turns[0] if turns else len(FIRST)
