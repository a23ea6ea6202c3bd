"""
How fast local-e5 embeds: python -m benchmarks.embedding

Chinese passages of 218 characters, as many a request as the server sends, and questions
of 18, one at a time; sentences of Django's own translation. With the threads that
OPENBLAS_NUM_THREADS says; `make bench-embedding` says one, as the server does. Prints
passages a second and milliseconds a question: by the clock, and by the processor's
time, which is what they would be on a core that does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.encodings import translations
from llmbackend.local.e5 import E5
from llmbackend.local.weights import find_e5_weights
from rag.embedders import LOCAL_BATCH

PASSAGE, QUESTION = 218, 18
BATCHES, QUESTIONS = 8, 100


def main() -> None:
    weights = find_e5_weights()
    if weights is None:
        raise SystemExit("The weights of local-e5 are not installed.")
    e5 = E5(Path(weights.path))
    passages, questions = cut(PASSAGE), cut(QUESTION)[:QUESTIONS]
    e5.embed(passages[:1], kind="passage")
    batches = [passages[n * LOCAL_BATCH :][:LOCAL_BATCH] for n in range(BATCHES)]
    clock, processor = medians(batches, lambda texts: e5.embed(texts, kind="passage"))
    print(
        f"passages of {PASSAGE} characters: {LOCAL_BATCH / clock:.1f} a second, "
        f"{LOCAL_BATCH / processor:.1f} by the processor's time"
    )
    single = [[question] for question in questions]
    clock, processor = medians(single, lambda texts: e5.embed(texts, kind="query"))
    print(
        f"a question of {QUESTION} characters: {clock * 1000:.1f} ms, "
        f"{processor * 1000:.1f} by the processor's time"
    )


def cut(length: int) -> list[str]:
    """Chinese prose in texts of that many characters, which overlap."""
    prose = "。".join(translations("zh_Hans"))
    starts = range(0, len(prose) - length, length // 7)
    return [prose[start : start + length] for start in starts]


def medians(
    batches: Sequence[list[str]], work: Callable[[list[str]], object]
) -> tuple[float, float]:
    """Seconds a batch, by the clock and by the processor's time."""
    taken = []
    for batch in batches:
        clock, processor = time.perf_counter(), time.process_time()
        work(batch)
        taken.append((time.perf_counter() - clock, time.process_time() - processor))
    by_clock, by_processor = np.median(taken, axis=0)
    return float(by_clock), float(by_processor)


if __name__ == "__main__":
    main()
