"""manage.py create_demo: something to look at, for those who have just installed it."""

from __future__ import annotations

import io
import secrets
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.lifecycle import delete
from accounts.models import User, folded
from accounts.registration import register
from conversations import lifecycle
from llmbackend.chat_models import QUOTE
from llmbackend.errors import LLMBackendError
from rag import bases
from rag.ingestion import Upload, add_document
from rag.offline import embedding_on_a_thread

DOCUMENTS = {
    "房屋租赁合同.md": """# 房屋租赁合同

## 第一章 租金

第一条 租赁期限为两年,自交付之日起计算。

第二条 月租金为人民币八千元,乙方应于每月五日前支付。
逾期支付的,每日按所欠租金的千分之一支付违约金。

## 第二章 解除

第三条 任何一方提前解除合同的,应当提前三十日书面通知对方。
""",
    "supply contract.md": """# Supply contract

## Delivery

Clause 1. The supplier delivers within ten working days of an order.

## Notice

Clause 2. Either party may end this contract with sixty days' notice in writing.
""",
}


class Command(BaseCommand):
    help = (
        "Makes a user with a knowledge base of two contracts and a conversation about "
        "them, and prints how to sign in."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user", default="demo", help="the name of the user")
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what would be made"
        )

    def handle(self, *, user: str, dry_run: bool, **options: Any) -> None:
        if User.objects.filter(username_folded=folded(user)).exists():
            raise CommandError(f"There is a user {user!r} already; see --user.")
        try:
            User._meta.get_field("username").clean(user, None)
        except ValidationError as exc:
            raise CommandError(f"{user!r}: {' '.join(exc.messages)}") from exc
        if dry_run:
            self.stdout.write(f"The user {user!r} would be made, and what is theirs.")
            return
        password = secrets.token_urlsafe(12)
        owner = register(username=user, password=password)
        try:
            made = self.furnish(owner)
        except BaseException as exc:
            # A user whose password nobody was told would be in the way of the next.
            delete(owner, by=None)
            if isinstance(exc, LLMBackendError):
                raise CommandError(str(exc)) from exc
            raise
        self.stdout.write(f"username: {user}\npassword: {password}\n{made}")

    def furnish(self, owner: User) -> str:
        """Make what is the user's; its ids, a line each."""
        base = bases.create(owner=owner, name="合同 Contracts", embedding_model_name="")
        with embedding_on_a_thread(settings.CONFIG) as embedding:
            for name, text in DOCUMENTS.items():
                self.stderr.write(f"Embedding {name} with {base.embedding_model} ...")
                upload = Upload(name=name, encoding="", file=io.BytesIO(text.encode()))
                add_document(
                    owner=owner,
                    knowledge_base_id=base.pk,
                    upload=upload,
                    embedding=embedding,
                )
        talk = lifecycle.create(
            owner=owner, title="合同 Contracts", model=QUOTE, api_key=""
        )
        return f"kb_id: {base.pk}\nconversation_id: {talk.pk}"
