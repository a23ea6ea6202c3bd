"""
The process of the embedded models: `python -m llmbackend.local`, started by a server.

It reads one order from standard input, writes one announcement to standard output, and
ends with the last server that holds on to it, or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from llmbackend.local.embeddings import Embeddings
from llmbackend.local.engine import Engine
from llmbackend.local.front import Front
from llmbackend.local.lifelines import Lifelines
from llmbackend.local.order import Announcement, Order
from llmbackend.local.weights import DamagedWeights, Weights, verify


def main() -> int:
    """Serve until nobody needs it; the exit code."""
    # Whatever the engine prints must not be taken for the announcement.
    announce_to = os.dup(1)
    os.dup2(2, 1)
    os.nice(10)
    order = Order.from_line(sys.stdin.buffer.readline())
    return asyncio.run(_live(order, announce_to))


async def _live(order: Order, announce_to: int) -> int:
    lifelines = Lifelines()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lifelines.cut)
    pipe = asyncio.create_task(lifelines.hold_standard_input())
    try:
        port = await _serve(order, lifelines)
    except (DamagedWeights, OSError, RuntimeError, ValueError) as error:
        _announce(Announcement(error=str(error)), announce_to)
        return 1
    _announce(Announcement(port=port), announce_to)
    await lifelines.ended.wait()
    pipe.cancel()
    _leave()
    return 0


async def _serve(order: Order, lifelines: Lifelines) -> int:
    chat, embedding = order.models.chat, order.models.embedding
    front = Front(
        key=order.key,
        engine=await asyncio.to_thread(_engine, chat) if chat else None,
        embeddings=Embeddings(embedding) if embedding else None,
        lifelines=lifelines,
    )
    return await front.listen()


def _engine(weights: Weights) -> Engine:
    verify(weights)
    return Engine(weights)


def _announce(announcement: Announcement, announce_to: int) -> None:
    os.write(announce_to, announcement.to_line())
    os.close(announce_to)


def _leave() -> None:
    # An ordinary exit joins the engine's threads: up to a whole batch of a prompt.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
