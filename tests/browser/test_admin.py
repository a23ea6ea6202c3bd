"""
How the admin looks: every page of ours in a browser, in both languages.

The screenshots are kept with the test's other files, or in the folder that the
environment variable SCREENSHOTS names, for people to look at.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import User
from conversations.models import Conversation, Message, Usage
from rag.models import Document
from tests.browser.chromium import Chromium, Page
from tests.conftest import PASSWORD, Client, Served
from tests.rag.embeddings import added
from tests.rag.kept import Kept, kept, put_into

WORDS = {"en": "Overview", "zh-CN": "概览"}
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
CONTRACT = (
    "# 租赁合同\n\n## 第一条 租金\n\n租金为每月三千元，于每月五日前支付。逾期支付的，"
    "每日按未付金额的万分之五支付违约金。\n\n## Termination\n\nEither party may end "
    "this agreement with <b>two months'</b> notice. The deposit is returned then.\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chosen = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


@pytest.fixture(scope="module")
def uploads() -> list[Kept]:
    """The documents of `filled`, once they were uploaded."""
    return []


@pytest.fixture
def filled(
    server: Served, as_alice: Client, alice: Any, settings: Any, uploads: list[Kept]
) -> None:
    """A day of answers, a base, and an administrator that may read."""
    settings.CONFIG = replace(
        settings.CONFIG, admin=replace(settings.CONFIG.admin, show_contents=True)
    )
    User.objects.create_superuser("root", password=PASSWORD)
    asked = as_alice.conversation(title="", api_key="sk-alices-very-own-key-1234")
    as_alice.ask(asked, "租金什么时候支付？")
    answers(Conversation.objects.get(pk=asked))
    base = as_alice.post("/api/rag/kb/create", json={"kb_name": "合同 Contracts"})
    kb_id = base.json()["kb_id"]
    if uploads:
        put_into(kb_id, uploads[0])
    else:
        for name in ("租赁合同.md", "lease.md"):
            added(as_alice, kb_id, CONTRACT + name, name=name)
        uploads.append(kept(kb_id))
    lease = Document.objects.filter(name="lease.md")
    lease.update(status="failed", error_code="no_text")


def answers(conversation: Conversation) -> None:
    """Made-up answers of the last day, and what they cost."""
    chance = random.Random(5)  # noqa: S311  Not for secrets.
    now = timezone.now()
    made = []
    for number in range(10, 410):
        begun = now - timedelta(minutes=1430 * chance.random() ** 1.5)
        code = chance.choice(["", "", "", "", "provider_busy", "provider_timeout"])
        status = "failed" if code else chance.choice(["complete"] * 8 + ["stopped"])
        made.append(
            Message(
                conversation=conversation,
                number=number,
                role="assistant",
                content="租金应于每月五日前支付。",
                status=status,
                error_code=code,
                model="gpt-4o",
                provider="fake",
                prompt_tokens=420,
                completion_tokens=88,
                created_at=begun,
                first_token_at=begun
                + timedelta(seconds=chance.lognormvariate(-1, 0.7)),
                finished_at=begun + timedelta(seconds=9),
            )
        )
    Message.objects.bulk_create(made)
    Usage.objects.bulk_create(
        Usage(
            owner_id=conversation.owner_id,
            day=now.date() - timedelta(days=day),
            model="gpt-4o",
            answers=100,
            prompt_tokens=chance.randrange(90_000),
            completion_tokens=chance.randrange(40_000),
        )
        for day in range(1, 14)
    )


@pytest.fixture(params=["en", "zh-CN"])
def page(
    request: Any, browser: Chromium, server: Served, filled: None
) -> Iterator[Page]:
    """A tab in which an administrator has logged in."""
    with browser.page("about:blank") as opened:
        opened.speak(request.param)
        opened.go(f"{server.base_url}/admin/login/?next=/admin/")
        opened.run(
            "document.isLeft = true, id_username.value = 'root', "
            f"id_password.value = '{PASSWORD}', document.forms[0].submit()"
        )
        opened.wait_until_loaded()
        assert WORDS[request.param] in opened.run("document.title")
        yield opened


def paths() -> dict[str, str]:
    """The pages to look at, by what their pictures are called."""
    message = Message.objects.filter(status="failed").order_by("-pk")[0]
    document = Document.objects.get(status="ready")
    failed = Document.objects.get(status="failed")
    conversation = Conversation.objects.get()
    user = User.objects.get(username="alice")
    base = document.knowledge_base_id
    return {
        "start": "",
        "providers": "providers/",
        "users": "accounts/user/",
        "user": f"accounts/user/{user.pk}/change/",
        "user-delete": f"accounts/user/{user.pk}/delete/",
        "audit-log": "accounts/auditentry/",
        "conversations": "conversations/conversation/",
        "conversation": f"conversations/conversation/{conversation.pk}/change/",
        "messages": "conversations/message/",
        "message": f"conversations/message/{message.pk}/change/",
        "bases": "rag/knowledgebase/",
        "base": f"rag/knowledgebase/{base}/change/",
        "documents": "rag/document/",
        "document": f"rag/document/{failed.pk}/change/",
        "chunks": f"rag/document/{document.pk}/chunks/",
        "try": f"rag/knowledgebase/{base}/try/",
    }


def test_every_page_is_laid_out_within_the_window(
    page: Page, server: Served, folder: Path
) -> None:
    language = page.run("document.documentElement.lang")
    for name, path in paths().items():
        page.go(f"{server.base_url}/admin/{path}")
        if name in {"try", "providers"}:
            send(page)

        picture = page.screenshot()

        (folder / f"{name}-{language}.png").write_bytes(picture)
        assert page.run("document.documentElement.lang") == language, name
        # What does not fit moves by itself, not with the whole page.
        assert page.run(FITS), name


def send(page: Page) -> None:
    """Fill in the form of a page of ours, and send it."""
    page.run(
        "document.isLeft = true,"
        " window.id_query && (id_query.value = '租金 two months'),"
        " document.querySelector('#content-main form').submit()"
    )
    page.wait_until_loaded()


def test_charts_are_drawn_and_read_aloud(page: Page, server: Served) -> None:
    page.go(f"{server.base_url}/admin/")
    drawn = page.run(
        "[...document.querySelectorAll('.chart > svg')]"
        ".map(svg => [svg.getBoundingClientRect().width, svg.querySelectorAll("
        "'rect, circle').length])"
    )
    assert len(drawn) == 3
    assert all(width > 300 and shapes for width, shapes in drawn)

    images = [
        (node["name"]["value"], node.get("description", {}).get("value", ""))
        for node in page.accessible()
        if node["role"]["value"] in {"image", "img", "graphics-document"}
    ]
    told = dict(images)
    titles = page.run(
        "[...document.querySelectorAll('.chart figcaption')].map(f => f.textContent)"
    )
    # Its name, and what it comes to in a sentence.
    assert [title for title in titles if told.get(title)] == [
        titles[place] for place in (0, 2, 3)
    ]


def test_a_narrow_window_is_enough(page: Page, server: Served, folder: Path) -> None:
    page.go(f"{server.base_url}/admin/")
    language = page.run("document.documentElement.lang")

    picture = page.screenshot(width=400)

    (folder / f"start-narrow-{language}.png").write_bytes(picture)
    assert page.run(FITS)
