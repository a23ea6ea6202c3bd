"""Work of many steps on a thread of a serving process, so that streams hardly wait."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.005


def paced(items: Iterable[T], *, at_once: int) -> Iterator[T]:
    """
    The same items, with a pause after each `at_once` of them.

    While a thread computes, the event loop has to ask for the interpreter after every
    read and write, and waits each time: 100 ms of work would be 100 ms in which hardly
    a piece is sent. A millisecond at once is not noticed.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % at_once == 0:
            time.sleep(PAUSE)
