"""
Exact search beside faiss-cpu's flat index: python -m benchmarks.exact

The number of threads is that of the environment's OPENBLAS_NUM_THREADS, 1 without it.
Both hold the same rows and are asked the same questions for the ten nearest, in turn,
in one process. Each is built three times: where its rows come to lie in memory matters
by a tenth. Prints one line a size: both medians and their ratio.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np

from benchmarks.bases import vectors
from rag.dense import DenseIndex, top

SIZES = ((10_000, 384), (100_000, 384), (100_000, 1024))
BUILDS = 3
NEAREST = 10
SECONDS = 4.0


def main() -> None:
    threads = int(os.environ.get("OPENBLAS_NUM_THREADS", "1"))
    faiss.omp_set_num_threads(threads)
    for rows, dimension in SIZES:
        ours, theirs = compared(rows, dimension)
        print(
            f"{threads} threads, {rows:6} x {dimension:4}: "
            f"{np.median(ours):6.2f} ms, faiss {np.median(theirs):6.2f} ms, "
            f"ratio {np.median(ours) / np.median(theirs):.2f}",
            flush=True,
        )


def compared(rows: int, dimension: int) -> tuple[list[float], list[float]]:
    """Milliseconds of every question, ours and theirs."""
    ours: list[float] = []
    theirs: list[float] = []
    for seed in range(BUILDS):
        stored = vectors(rows, dimension=dimension, seed=seed)
        index = DenseIndex(size=rows, dimension=dimension)
        index.fill([row.tobytes() for row in stored])
        flat = faiss.IndexFlatIP(dimension)
        flat.add(stored)
        del stored
        ask(index, flat, dimension=dimension, ours=ours, theirs=theirs)
    return ours, theirs


def ask(
    index: DenseIndex,
    flat: Any,
    *,
    dimension: int,
    ours: list[float],
    theirs: list[float],
) -> None:
    questions = vectors(1000, dimension=dimension, seed=BUILDS)
    until = time.monotonic() + SECONDS
    for question in questions:
        if time.monotonic() > until:
            return
        # By turns: each finds the processor's cache as the other left it.
        scores = timed(partial(nearest, index, question), ours)[1]
        found = timed(partial(flat.search, question[np.newaxis], NEAREST), theirs)
        if not np.allclose(scores, found[0][0], atol=1e-5):
            raise SystemExit("They do not find the same.")


def nearest(index: DenseIndex, question: Any) -> Any:
    return top(index.scores(question), k=NEAREST)


def timed(work: Callable[[], Any], times: list[float]) -> Any:
    began = time.perf_counter()
    found = work()
    times.append((time.perf_counter() - began) * 1000)
    return found


if __name__ == "__main__":
    main()
