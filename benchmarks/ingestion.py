"""
What an ingestion costs the streams beside it: python -m benchmarks.ingestion

A served project streams 50 answers, a piece every 20 ms each. How late the pieces are,
from the provider's write to the client's read, is measured beside an ingestion and for
as long after it, several times; printed are medians and 99th percentiles, and the ratio
of the latter. With `local-ngram` a document has 2,000 chunks; with `local-e5`, where it
is installed, 200, which take longer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tests import paced
from tests.paced import Seconds, Streams, p99

CHUNKS = {"local-ngram": 2000, "local-e5": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    # The readers and the provider are threads of this process.
    sys.setswitchinterval(0.0005)
    for model in CHUNKS:
        with (
            tempfile.TemporaryDirectory() as folder,
            paced.streaming(Path(folder), local={"enabled": True}) as streams,
        ):
            models = streams.client.get("/api/rag/models").json()["models"]
            if model in models:
                measure(streams, model=model, rounds=rounds)


def measure(streams: Streams, *, model: str, rounds: int) -> None:
    base = paced.base_in(streams.client, model=model)
    chunks = CHUNKS[model]
    ingest = partial(paced.ingest, streams.client, base)
    # So that the model is loaded.
    ingest(text=paced.text_of(1, seed=rounds), chunks=1)
    every: list[tuple[float, float]] = []
    for seed in range(rounds):
        text = paced.text_of(chunks, seed=seed)
        beside, alone = streams.late(beside=partial(ingest, text=text, chunks=chunks))
        every.append((p99(beside), p99(alone)))
        print(f"{model}: beside {said(beside)}, alone {said(alone)}", flush=True)
    most, least = np.median(every, axis=0)
    print(
        f"{model}, {chunks} chunks: p99 {most:.1f} ms beside, {least:.1f} ms alone, "
        f"ratio {most / least:.2f}",
        flush=True,
    )


def said(late: Seconds) -> str:
    return f"p50 {np.median(late) * 1000:.1f} ms, p99 {p99(late):.1f} ms"


if __name__ == "__main__":
    main()
