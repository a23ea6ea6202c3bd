"""Figures as JSON, beside what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


def as_json(figures: Mapping[str, Any], *, runs: Sequence[Any] = ()) -> str:
    """One line: the figures, each single run, the commit and the machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    machine = {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    return json.dumps({**figures, "machine": machine, "runs": runs}, default=str)
