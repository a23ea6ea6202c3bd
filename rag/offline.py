"""Embedding outside a serving process: for commands, on a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llmbackend.config import Config
from llmbackend.connected import Providers
from rag.embedders import Embedding

CLOSE_SECONDS = 30


@contextmanager
def embedding_on_a_thread(config: Config) -> Iterator[Embedding]:
    """An Embedding that the caller's thread may use until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedding", daemon=True)
    thread.start()
    providers = Providers(config)
    embedding = Embedding(providers, config=config)
    loop.call_soon_threadsafe(embedding.start)
    try:
        yield embedding
    finally:
        closing = asyncio.run_coroutine_threadsafe(providers.aclose(), loop)
        closing.result(CLOSE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
