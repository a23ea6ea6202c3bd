"""
How fast an owner of many messages searches them, beside many of others'.

    python -m benchmarks.conversations [--messages N] [--beside N] [--database-url URL]

Conversations of ten messages, questions of 30 characters and answers of about 650, two
of three in Chinese, stand in the database in the order of a shared server: each row
beside those of others. They are put there directly, and indexed before they are
searched, by HTTP. Beside it, what one statement takes that reads all of the owner's
texts through. --database-url names an empty PostgreSQL database.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.bases import passages
from benchmarks.machine import as_json
from tests.served import ServeProcess

IN_CONVERSATION = 10
OWNERS_BESIDE = 100
TEXTS = 3000
AT_ONCE = 5000
TIMES = 20
LETTERS = "etaoinshrdlu"
SECRET = {"jwt": {"secret": "benchmark " * 4}}


def texts(*, seed: int) -> tuple[list[str], list[str]]:
    """Questions and answers, every third in a made-up language of Latin letters."""
    pieces = list(passages(TEXTS, seed=seed))
    for place in range(0, TEXTS, 3):
        pieces[place] = " ".join(latin(ord(letter)) for letter in pieces[place])
    shuffled = random.Random(seed)  # noqa: S311
    answers = ["\n".join(shuffled.sample(pieces, 3)) for _ in range(TEXTS)]
    return [piece[:30] for piece in pieces], answers


def latin(number: int) -> str:
    """A word for a number, another for each."""
    word = ""
    while number:
        number, letter = divmod(number, len(LETTERS))
        word += LETTERS[letter]
    return word


def fill(owner: Any, *, messages: int, beside: int) -> None:
    from accounts.models import User
    from conversations.models import Conversation, Message, random_id

    others = User.objects.bulk_create(
        User(username=f"u{n}", username_folded=f"u{n}") for n in range(OWNERS_BESIDE)
    )
    questions, answers = texts(seed=1)
    dealt = random.Random(2)  # noqa: S311
    ids = [
        (random_id(), owner if n < messages else dealt.choice(others))
        for n in range(0, messages + beside, IN_CONVERSATION)
    ]
    now = time_zero()
    Conversation.objects.bulk_create(
        (
            Conversation(
                pk=pk,
                owner=one,
                title=dealt.choice(questions)[:15],
                model="gpt-4o",
                created_at=now,
                updated_at=now,
            )
            for pk, one in ids
        ),
        batch_size=AT_ONCE,
    )
    for number in range(1, IN_CONVERSATION + 1):
        dealt.shuffle(ids)
        pool = questions if number % 2 else answers
        for start in range(0, len(ids), AT_ONCE):
            Message.objects.bulk_create(
                Message(
                    conversation_id=pk,
                    number=number,
                    role="user" if number % 2 else "assistant",
                    content=dealt.choice(pool),
                    created_at=now,
                )
                for pk, _ in ids[start : start + AT_ONCE]
            )


def time_zero() -> Any:
    from django.utils import timezone

    return timezone.now()


def queries() -> Iterator[tuple[str, str]]:
    """What is looked for, by what it is."""
    _, answers = texts(seed=1)
    zh = next(text for text in answers if not text.isascii())
    line = next(line for line in zh.split("\n") if not line.isascii())
    words = next(text for text in answers if text.isascii()).split()
    words.sort(key=len)
    yield "a frequent character", line[0]
    yield "a word of two", line[10:12]
    yield "two words of two", f"{line[10:12]} {line[40:42]}"
    yield "a phrase of eight", line[20:28]
    yield "a phrase that is nowhere", line[30] + line[1] + line[51] + line[20]
    yield "a character that is nowhere", "鿿"
    yield "a Latin word", words[0].upper()
    yield "two Latin words", f"{words[3]} {words[-1]}"
    yield "a Latin word that is nowhere", "zzzz"


def searched(client: Any, server: ServeProcess, query: str) -> dict[str, float]:
    """Hits of the first page, milliseconds by the clock and of the processor."""
    process = psutil.Process(server.process.pid)
    times = []
    spent = sum(process.cpu_times()[:2])
    for _ in range(TIMES):
        began = time.perf_counter()
        found = client.get("/api/conversations/search", params={"q": query})
        times.append((time.perf_counter() - began) * 1000)
    spent = sum(process.cpu_times()[:2]) - spent
    p50, most = np.percentile(times, [50, 100])
    hits = len(found.raise_for_status().json())
    return {"hits": hits, "p50": p50, "most": most, "cpu": spent / TIMES * 1000}


def read_through(owner: Any, query: str) -> float:
    """Milliseconds of one statement that looks into every text of the owner's."""
    from conversations.models import Message

    mine = Message.objects.filter(conversation__owner=owner)
    began = time.perf_counter()
    mine.filter(content__icontains=query).count()
    return (time.perf_counter() - began) * 1000


def measure(server: ServeProcess, *, messages: int, beside: int) -> dict[str, Any]:
    from accounts.models import User
    from conversations.segments import index_all

    server.start()
    server.wait_until_ready()
    with server.signed_in("ann") as client:
        client.timeout = 120
        owner = User.objects.get(username="ann")
        fill(owner, messages=messages, beside=beside)
        began = time.perf_counter()
        indexed = sum(index_all(owner))
        each = (time.perf_counter() - began) / max(indexed, 1) * 1e6
        print(f"{indexed} of {messages} indexed, {each:.0f} µs each")
        figures: dict[str, Any] = {"indexed": indexed, "us_to_index": each}
        for name, query in queries():
            figures[name] = found = searched(client, server, query)
            print(
                f"{name:30}{found['hits']:4} hits, p50 {found['p50']:5.1f} ms,",
                f"most {found['most']:6.1f} ms, processor {found['cpu']:5.1f} ms",
                flush=True,
            )
        through = min(read_through(owner, "鿿鿿") for _ in range(3))
        print(f"all texts read through by the database: {through:.0f} ms")
        return {**figures, "read_through": through}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--beside", type=int, default=1_000_000)
    parser.add_argument("--database-url", default="")
    asked = parser.parse_args()
    config: dict[str, Any] = {}
    if asked.database_url:
        config = {"database": {"url": asked.database_url}, **SECRET}
    with tempfile.TemporaryDirectory() as folder:
        server = ServeProcess(Path(folder), config=config)
        os.environ["LLMBACKEND_CONFIG"] = str(server.config_file)
        os.environ["DJANGO_SETTINGS_MODULE"] = "llmbackend.settings"
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        try:
            figures = measure(server, messages=asked.messages, beside=asked.beside)
        finally:
            server.kill()
    print(as_json(figures))


if __name__ == "__main__":
    main()
