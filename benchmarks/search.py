"""
How fast a base of 100,000 chunks is loaded and searched: python -m benchmarks.search

Three parts, each of which can be named to be run alone:

exact     exact search beside faiss-cpu's flat index, with one thread and with two
loading   a base of 100,000 chunks of 1,024 dimensions from SQLite into memory
retrieve  questions by HTTP to a base of 100,000 chunks, with `local-e5` if it is there

The chunks are made up, 218 Chinese characters each, and put into SQLite directly.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.served import ServeProcess

CHUNKS = 100_000
LOADS = 5
QUESTIONS = 100
PARTS = ("exact", "loading", "retrieve")


def exact() -> None:
    for threads in ("1", "2"):
        number = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "benchmarks.exact"]
        subprocess.run(command, env={**os.environ, **number}, check=True)


@contextmanager
def project() -> Iterator[ServeProcess]:
    """A server not yet started, on a database of its own that this process uses too."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServeProcess(Path(folder), config={"local": {"enabled": True}})
        os.environ["LLMBACKEND_CONFIG"] = str(server.config_file)
        os.environ["DJANGO_SETTINGS_MODULE"] = "llmbackend.settings"
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        try:
            yield server
        finally:
            server.kill()


def loading() -> None:
    """Several times, each in a new process."""
    from accounts.models import User
    from benchmarks.bases import filled

    owner = User.objects.create_user("bob")
    base = filled(owner, chunks=CHUNKS, dimension=1024, model="local-e5")
    found = [loaded(base) for _ in range(LOADS)]
    last = found[-1]
    times = ", ".join(f"{figures['seconds']:.2f}" for figures in sorted_by_time(found))
    print(f"loading {CHUNKS} x 1024 from SQLite: {times} s")
    matrix, postings = last["matrix"], last["postings"]
    print(f"matrix {matrix / 1e6:.0f} MB, postings {postings / 1e6:.0f} MB")
    for name in ("grown", "peak"):
        beyond = (last[name] - postings) / matrix
        print(
            f"{name} {last[name] / 1e6:.0f} MB: the postings and {beyond:.2f} matrices"
        )
    # What a busy machine adds comes once; what holds the interpreter comes each time.
    for name in ("longest_wait", "longest_wait_searching"):
        waits = min(figures[name] for figures in found)
        print(f"{name.replace('_', ' ')}: {waits * 1000:.1f} ms in the best of {LOADS}")


def loaded(base: uuid.UUID) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loading", str(base)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def sorted_by_time(found: list[dict[str, float]]) -> list[dict[str, float]]:
    return sorted(found, key=lambda figures: figures["seconds"])


def retrieve(server: ServeProcess) -> None:
    from django.conf import settings

    from accounts.models import User
    from benchmarks.bases import filled, passages
    from rag.embedding_models import LOCAL_E5, LOCAL_NGRAM, embedding_models
    from rag.ngrams import DIMENSION

    usable = {model.name for model in embedding_models(settings.CONFIG)}
    model = LOCAL_E5 if LOCAL_E5 in usable else LOCAL_NGRAM
    dimension = 384 if model == LOCAL_E5 else DIMENSION
    questions = [text[:18] for text in passages(QUESTIONS, seed=CHUNKS)]
    server.start()
    server.wait_until_ready()
    with server.signed_in("ann") as client:
        client.timeout = 120
        owner = User.objects.get(username="ann")
        base = filled(owner, chunks=CHUNKS, dimension=dimension, model=model)
        for mode in ("hybrid", "dense", "keyword"):
            times = [asked(client, base, text, mode=mode) for text in questions]
            # The first ones start the model and load the index.
            warm = np.array(times[3:]) * 1000
            p50, p99 = np.percentile(warm, [50, 99])
            print(f"retrieve, {model}, {mode}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def asked(client: Any, base: uuid.UUID, question: str, *, mode: str) -> float:
    """The seconds that an answer took."""
    began = time.perf_counter()
    body = {"kb_id": str(base), "query": question, "mode": mode}
    answer = client.post("/api/rag/retrieve", json=body).raise_for_status()
    took = time.perf_counter() - began
    if not answer.json()["results"]:
        raise SystemExit("Nothing was found.")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    # Of nothing, argparse asks whether that is among the choices.
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parts = parser.parse_args().parts or PARTS
    if "exact" in parts:
        exact()
    if not {"loading", "retrieve"} & set(parts):
        return
    with project() as server:
        if "loading" in parts:
            loading()
        if "retrieve" in parts:
            retrieve(server)


if __name__ == "__main__":
    main()
