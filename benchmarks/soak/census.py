"""
manage.py for a server under test: python -m benchmarks.soak.census serve

On SIGUSR1 it prints, on standard error, the number of tasks that are not done, by the
coroutine each runs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter
from types import FrameType
from typing import Any

SAYS = "census "


def tell(sig: int, frame: FrameType | None) -> None:
    tasks: list[asyncio.Task[Any]] = [
        # By type(): isinstance() would ask lazy objects what they are.
        each
        for each in gc.get_objects()
        if type(each) is asyncio.Task
    ]
    names = Counter(
        getattr(t.get_coro(), "__qualname__", "?") for t in tasks if not t.done()
    )
    sys.stderr.write(f"{SAYS}{json.dumps(names)}\n")
    sys.stderr.flush()


def main() -> None:
    from django.core.management import execute_from_command_line

    signal.signal(signal.SIGUSR1, tell)
    execute_from_command_line(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmbackend.settings")
    main()
