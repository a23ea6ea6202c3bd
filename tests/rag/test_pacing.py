"""Streams go on at their pace while a document is taken in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rag import pacing
from tests import paced
from tests.paced import p99

CHUNKS = 2000
LEAST, MOST = 3, 7


@contextmanager
def another_computes() -> Iterator[None]:
    """
    A process that gives way as a parser does, and computes as long as it may.

    What it takes from the streams is the machine's affair, not the ingestion's: where
    nothing is free, a parser takes as much.
    """
    endless = "import os; os.nice(10)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", endless])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
def test_a_document_of_2000_chunks_makes_streams_less_than_twice_as_late(
    tmp_path: Path,
) -> None:
    beside: list[float] = []
    alone: list[float] = []
    with paced.streaming(tmp_path) as streams:
        base = paced.base_in(streams.client, model="local-ngram")
        # More turns where the machine does other things meanwhile.
        for turn in range(MOST):
            text = paced.text_of(CHUNKS, seed=turn)
            ingest = partial(paced.ingest, streams.client, base, text=text)
            late = streams.late(
                beside=partial(ingest, chunks=CHUNKS), after=another_computes
            )
            beside.append(p99(late[0]))
            alone.append(p99(late[1]))
            few_are_late = np.median(beside) < 2 * np.median(alone)
            if turn + 1 >= LEAST and few_are_late:
                break

    assert few_are_late, (beside, alone)


def test_paced_items_are_the_same_items_with_pauses() -> None:
    began = time.monotonic()

    items = list(pacing.paced(iter(range(10)), at_once=3))

    assert items == list(range(10))
    assert time.monotonic() - began >= 3 * pacing.PAUSE
