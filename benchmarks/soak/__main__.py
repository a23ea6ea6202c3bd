"""
Whether streams are held without growing: python -m benchmarks.soak --minutes 2

300 clients each read an answer of two pieces a second, beside 30 readers that take
nothing and 30 whose process is stopped after ten seconds, so that they neither read nor
say goodbye. Those 60 follow one answer of 4 MB, more than the kernel holds for them.

Each answer ends with its provider's SHA-256 of it. The delay of a piece is from the
provider's write to the client's read. Memory is resident, and its growth is the most
after the first half minute against what it was then; handles and tasks are counted
before and after, without the connections to the provider that are kept for reuse. The
last line is all of it as JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks.machine import as_json
from benchmarks.soak.soak import Size, soaked


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = Size(seconds=asked.minutes * 60)
        found = uvloop.run(soaked(Path(folder), size))
    for name, value in found.figures.items():
        print(f"{name:24} {value}")
    for broken in found.broken:
        print(f"not as promised: {broken}")
    print(as_json(found.figures))
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
