"""Some of the requests that `make fuzz` sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import fuzz, server_for

CASES = 300


@pytest.mark.timeout(600)  # A busy machine takes minutes.
def test_whatever_is_asked_is_answered_as_described(tmp_path: Path) -> None:
    with server_for(tmp_path) as server:
        tried = fuzz(server, cases=CASES)

    assert tried.cases == CASES
    assert list(tried.found.values()) == []
    # Each of the three was let in, kept out, and told what is wrong.
    assert {200, 400, 401, 404} <= tried.statuses.keys()
