"""llama.cpp's own server, inside this process, on the loopback; its settings."""

from __future__ import annotations

import importlib
import os
import secrets
from pathlib import Path
from typing import Any

from llmbackend.local.weights import SMOLLM2, Weights

SLOTS = 2
CONTEXT = 4096


class Engine:
    """
    A loaded model. Loading blocks, and keeps the interpreter to itself meanwhile.

    Raises RuntimeError for a file that cannot be loaded.
    """

    def __init__(self, weights: Weights) -> None:
        # Only ever imported here: a web process must not load 100 MB of C++.
        xllamacpp: Any = importlib.import_module("xllamacpp")
        self.model = weights.name
        self.key = secrets.token_urlsafe(32)
        params = xllamacpp.CommonParams()
        _set_model(params, weights)
        _set_server(params, key=self.key)
        self._server = xllamacpp.Server(params)
        self.base_url: str = self._server.listening_address


def _set_model(params: Any, weights: Weights) -> None:
    threads = cores_to_use()
    batch = prompt_batch(size=Path(weights.path).stat().st_size, threads=threads)
    params.model.path = weights.path
    params.model_alias = {weights.name}
    params.n_parallel = SLOTS
    params.n_ctx = (
        CONTEXT * SLOTS
    )  # A model trained on less is capped to what it knows.
    params.n_batch = params.n_ubatch = batch
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0  # By default it keeps up to 8 GiB of old prompts.
    if weights.name == SMOLLM2:
        # Its authors' values; and a model this small may repeat itself for ever.
        params.sampling.temp = 0.2
        params.sampling.top_p = 0.9
        params.n_predict = 1024


def _set_server(params: Any, *, key: str) -> None:
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.show_timings = False
    params.verbosity = 1  # Errors; more would log a line for every request.


def cores_to_use() -> int:
    """All cores this process may run on but one, which is left to the server."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process is not confined.
        return max(1, len(os.sched_getaffinity(0)) - 1)
    return max(1, (os.cpu_count() or 1) - 1)


def prompt_batch(*, size: int, threads: int) -> int:
    """
    How many prompt tokens to read at a time, for a weight file of `size` bytes.

    A hang-up is noticed only between batches, at worst after the second: this is about
    a quarter of a second's work (16 tokens of SmolLM2 on one core). Batches of 8 to 512
    tokens were measured equally fast on a CPU.

    >>> prompt_batch(size=98_362_432, threads=1)
    16
    >>> prompt_batch(size=4_000_000_000, threads=1)
    4
    """
    return max(4, min(512, 16 * 100_000_000 * threads // size))
