"""Streams go on at their pace while a document is taken in."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rag import pacing
from tests import paced
from tests.paced import p99

CHUNKS = 2000
LEAST, MOST = 3, 7


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
            late = streams.late(beside=partial(ingest, chunks=CHUNKS))
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
