"""
What a crash costs: python -m benchmarks.chaos --cycles N [--database-url URL]

Eight clients, four over HTTP and four over WebSocket, ask the served project, whose
provider sends a piece every 15 ms, and write down what they are told. The server and
all its processes are killed (SIGKILL) at a random moment within three seconds, in one
cycle of four again during the recovery, and started again; the clients come back, by
Last-Event-ID or, where nothing was acknowledged, by sending the question again under
its Idempotency-Key. Then every history is compared with its client's ledger.

The seed decides when the server is killed and what is asked. The last line is all of
it as JSON. --database-url names a PostgreSQL database that may be written to.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos.cycles import Chaos, Cycle
from benchmarks.machine import as_json
from tests import fake_provider


async def run(*, cycles: int, seed: int, database_url: str) -> list[Cycle]:
    """Print each cycle as it ends."""
    done: list[Cycle] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_provider.running() as provider,
    ):
        chaos = Chaos(Path(folder), provider, seed=seed, database_url=database_url)
        print("cycle kills  cut asked  ready closed   back   lost faults")
        async for cycle in chaos.run(cycles):
            done.append(cycle)
            times = (cycle.ready, cycle.closed, cycle.back, cycle.lost)
            print(
                f"{len(done):5}{cycle.kills:6}{cycle.cut:5}{cycle.acknowledged:6}",
                *(f"{seconds:6.2f}" for seconds in times),
                f"{len(cycle.faults):6}",
                flush=True,
            )
            for fault in cycle.faults:
                print(f"      {fault.kind}: {fault.seen}", flush=True)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    done = asyncio.run(
        run(cycles=asked.cycles, seed=asked.seed, database_url=asked.database_url)
    )
    kinds = Counter(fault.kind for cycle in done for fault in cycle.faults)
    summary = {
        "seed": asked.seed,
        "cycles": len(done),
        "kills": sum(cycle.kills for cycle in done),
        "answers_cut": sum(cycle.cut for cycle in done),
        "questions": done[-1].acknowledged,
        "faults": kinds,
        **{
            f"{name}_at_most": max(getattr(cycle, name) for cycle in done)
            for name in ("ready", "closed", "back", "lost")
        },
    }
    print(f"\n{sum(kinds.values())} faults in {len(done)} cycles {dict(kinds) or ''}")
    print(as_json(summary, runs=[asdict(cycle) for cycle in done]))
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
