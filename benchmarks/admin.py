"""
How fast the admin's pages are with 100,000 rows behind each: python -m benchmarks.admin

100,000 users, conversations, messages of about 1,000 characters, knowledge bases,
documents, chunks of one document, and entries of the audit log are made up and put into
SQLite. Half of the messages are answers, one in ten failed. One user has half of all
that can be owned. Every page is then read five times from a running server.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psutil

from benchmarks.search import project
from tests.admin_browser import signed_in
from tests.served import ServeProcess

PASSWORD = "correct horse battery"  # noqa: S105  It guards nothing.
BATCH = 2000
TIMES = 5
SLOWEST = 300
LOREM = "Where do the swallows go in winter, and who has told them the way? " * 15


def fill(rows: int) -> None:
    """`rows` rows of each kind."""
    from django.utils import timezone

    from accounts.models import AuditEntry, User
    from conversations.models import Conversation, Message
    from rag.models import Chunk, Document, KnowledgeBase

    seeded = random.Random(7)  # noqa: S311  Not for secrets.
    now = timezone.now()

    def ago(number: int) -> Any:
        return now - timedelta(days=30) * number / rows

    def owner(number: int) -> Any:
        return users[0].pk if number % 2 else users[number].pk

    def save(model: Any, made: Iterator[Any]) -> list[Any]:
        print(f"making {rows} x {model._meta.verbose_name_plural} ...", flush=True)
        saved: list[Any] = model.objects.bulk_create(made, batch_size=BATCH)
        return saved

    names = [f"user{number:06}" for number in range(rows)]
    users = save(
        User,
        (User(username=n, username_folded=n, email=f"{n}@example.com") for n in names),
    )
    conversations = save(
        Conversation,
        (
            Conversation(
                owner_id=owner(n),
                title="Rust",
                model="gpt-4o",
                created_at=ago(n),
                updated_at=ago(n),
            )
            for n in range(rows)
        ),
    )
    save(
        Message,
        (
            Message(
                conversation=conversations[n // 2],
                number=n % 2 + 1,
                role="assistant" if n % 2 else "user",
                content=LOREM,
                status="failed" if n % 10 == 1 else "complete",
                error_code="provider_busy" if n % 10 == 1 else "",
                model="gpt-4o",
                created_at=ago(n),
                first_token_at=ago(n) + timedelta(seconds=seeded.random()),
                finished_at=ago(n) + timedelta(seconds=5),
            )
            for n in range(rows)
        ),
    )
    bases = save(
        KnowledgeBase,
        (
            KnowledgeBase(
                owner_id=owner(n),
                name=f"Base {n}",
                embedding_model="local-ngram",
                created_at=ago(n),
            )
            for n in range(rows)
        ),
    )
    documents = save(
        Document,
        (
            Document(
                knowledge_base=bases[1 if n % 2 else n],
                name=f"Contract {n}.pdf",
                type="pdf",
                sha256=uuid.uuid4().hex * 2,
                embedding_model="local-ngram",
                status="failed" if n % 10 == 1 else "ready",
                error_code="no_text" if n % 10 == 1 else "",
                created_at=ago(n),
            )
            for n in range(rows)
        ),
    )
    save(
        Chunk,
        (
            Chunk(
                document=documents[0],
                ordinal=n,
                text=LOREM[:400],
                start=n * 400,
                end=n * 400 + 400,
                embedding=b"1234" * 384,
                terms=b"12345" * 200,
            )
            for n in range(rows)
        ),
    )
    save(
        AuditEntry,
        (
            AuditEntry(
                at=ago(n),
                action="logged_in",
                actor_id=owner(n),
                kind="accounts.user",
                object_id=str(owner(n)),
                address="192.0.2.7",
                request_id=uuid.uuid4().hex,
            )
            for n in range(rows)
        ),
    )


def pages(rows: int) -> Iterator[str]:
    """Every kind of page: lists as they come, searched, filtered, sorted; rows."""
    from accounts.models import AuditEntry, User
    from conversations.models import Conversation, Message
    from rag.models import Document, KnowledgeBase

    owner = User.objects.get(username="user000000")
    yield "/admin/"
    yield "/admin/providers/"
    filters = {
        User: "?is_active__exact=1",
        AuditEntry: "?action=logged_in",
        Conversation: "?o=6",
        Message: "?status__exact=failed",
        KnowledgeBase: "?o=6",
        Document: "?status__exact=failed",
    }
    for model, narrowed in filters.items():
        changelist = f"/admin/{model._meta.label_lower.replace('.', '/')}/"
        yield changelist
        yield f"{changelist}?p={rows // 50 - 1}"
        yield f"{changelist}{narrowed}"
        yield f"{changelist}?q={owner.username}"
        yield f"{changelist}?q=nothing-like-it"
        row = model._base_manager.order_by("pk")[0]
        yield f"{changelist}{row.pk}/change/"
        if model not in {AuditEntry, Message}:
            yield f"{changelist}{row.pk}/delete/"
    yield f"/admin/conversations/message/?q={Conversation.objects.all()[0].pk}"
    yield "/admin/conversations/message/?q=provider_busy"
    yield f"/admin/accounts/user/{owner.pk}/delete/"
    base = KnowledgeBase.objects.get(name="Base 1")
    yield f"/admin/rag/knowledgebase/{base.pk}/delete/"
    yield f"/admin/rag/knowledgebase/{base.pk}/try/"
    yield f"/admin/rag/document/?q={base.pk}"
    document = Document.objects.get(name="Contract 0.pdf")
    for page in (1, 5000):
        yield f"/admin/rag/document/{document.pk}/chunks/?page={page}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with project() as server:
        from accounts.models import User

        fill(rows)
        User.objects.create_superuser("root", password=PASSWORD)
        server.start()
        server.wait_until_ready()
        measure(server, rows)


def measure(server: ServeProcess, rows: int) -> None:
    """Read every page several times, and print what it took and what it computed."""
    process = psutil.Process(server.process.pid)

    def computed() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    print("   best  median     CPU  (ms)")
    slow = 0
    with signed_in(server.base_url, "root", PASSWORD) as browser:
        for page in pages(rows):
            before, took = computed(), []
            for _ in range(TIMES):
                began = time.perf_counter()
                browser.read(page)
                took.append((time.perf_counter() - began) * 1000)
            cpu = (computed() - before) / TIMES * 1000
            slow += statistics.median(took) > SLOWEST
            middle = statistics.median(took)
            print(f"{min(took):7.0f} {middle:7.0f} {cpu:7.0f}  {page}", flush=True)
    print(f"{slow} pages take more than {SLOWEST} ms in the median")


if __name__ == "__main__":
    main()
