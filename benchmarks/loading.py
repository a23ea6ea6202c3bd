"""
What an index costs: python -m benchmarks.loading BASE

BASE is the id of a base in the database of LLMBACKEND_CONFIG. In a process of its own,
so that the memory measured is the index's: prints one JSON object with how long loading
took, how much the process grew, at its peak too, and the longest that another thread
had to wait meanwhile.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import uuid
from types import TracebackType
from typing import Any

import django
import psutil

BUDGET = 4 << 30
TICK = 0.001
QUESTIONS = 50


class Ticking:
    """A thread that wants to run every millisecond; `longest` is what it waited."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def _tick(self) -> None:
        last = time.perf_counter()
        while not self._stop.is_set():
            time.sleep(TICK)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - TICK)
            last = now

    def __enter__(self) -> Ticking:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    # Django, the collector and the switch interval as in a server process.
    from llmbackend.serving import load

    load()
    from rag.indexes import Base, Indexes
    from rag.models import KnowledgeBase

    base = Base.of(KnowledgeBase.objects.get(pk=uuid.UUID(sys.argv[1])))
    indexes = Indexes(budget=BUDGET)
    before = psutil.Process().memory_info().rss
    with Ticking() as ticking:
        began = time.perf_counter()
        index = indexes.get(base)
        seconds = time.perf_counter() - began
    if index is None:
        raise SystemExit("The base is too large.")
    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with Ticking() as searching:
        search(index)
    figures = {
        "seconds": seconds,
        "matrix": index.dense.nbytes,
        "postings": index.keyword.nbytes,
        "grown": psutil.Process().memory_info().rss - before,
        "peak": peak - before,
        "longest_wait": ticking.longest,
        "longest_wait_searching": searching.longest,
    }
    print(json.dumps(figures))


def search(index: Any) -> None:
    from benchmarks.bases import passages, vectors
    from rag.indexes import Asked
    from rag.terms import question_terms

    dimension = index.dense.matrix.shape[1]
    asked = vectors(QUESTIONS, dimension=dimension, seed=1)
    for text, vector in zip(passages(QUESTIONS, seed=1), asked, strict=True):
        terms = question_terms(text[:20])
        index.scored(Asked(text=text[:20], terms=terms, vector=vector))


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmbackend.settings")
    django.setup()
    main()
