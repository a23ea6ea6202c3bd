"""config.yaml and the secrets: read, or handed over by the process that has."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from llmbackend.config import Config, load
from llmbackend.keys import Keys, load_keys

# Set for a process that finds them on its standard input.
_MARK = "LLMBACKEND_WORKER"


def read_or_taken(path: Path) -> tuple[Config, Keys]:
    """
    What is in `path` and in the key file it leads to; raises ConfigError.

    A process that `started` has made takes them from the one that called it.
    """
    if os.environ.pop(_MARK, ""):
        taken: tuple[Config, Keys] = pickle.load(sys.stdin.buffer)  # noqa: S301
        return taken
    config = load(path)
    return config, load_keys(config)


def started(
    command: list[str], *, config: Config, keys: Keys, fd: int
) -> subprocess.Popen[bytes]:
    """
    A process of ours, in a session of its own, that also has the descriptor `fd`.

    What is in the files by now may be for the next start: of workers that differ in a
    secret, one would refuse the tokens of another.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, _MARK: "1"},
        stdin=subprocess.PIPE,
        pass_fds=[fd],
        start_new_session=True,
    )
    # One that has died already is replaced like any other.
    with suppress(BrokenPipeError), process.stdin as pipe:  # type: ignore[union-attr]
        pickle.dump((config, keys), pipe)
    return process
