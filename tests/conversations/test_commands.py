"""recover_answers, prune_conversations, index_messages and rotate_field_keys."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from conversations import segments
from conversations.models import Conversation, Message, Usage
from tests.conftest import make_user
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)


def output_of(*command: str) -> str:
    out = StringIO()
    call_command(*command, stdout=out, stderr=StringIO())
    return out.getvalue()


@pytest.fixture
def alice(db: None) -> Any:
    return make_user("alice")


class TestRecoverAnswers:
    @pytest.fixture
    def left(self, alice: Any) -> Message:
        writer = make_writer(silent=60)
        return make_streaming(make_conversation(alice), writer=writer)

    def test_answers_of_the_dead_are_ended(self, left: Message) -> None:
        assert output_of("recover_answers") == "1 answers were ended.\n"
        left.refresh_from_db()
        assert left.status == "interrupted"

    def test_a_dry_run_changes_nothing(self, left: Message) -> None:
        assert output_of("recover_answers", "--dry-run").startswith("1 answers would")
        left.refresh_from_db()
        assert left.status == "streaming"


class TestPruneConversations:
    @pytest.fixture
    def conversations(self, alice: Any) -> list[Conversation]:
        """One of Alice's that is old, one that is not, and an old one of Bob's."""
        bob = make_user("bob")
        made = [make_conversation(owner) for owner in (alice, alice, bob)]
        for conversation in made:
            make_turns(conversation, "Hi")
        old = Conversation.objects.filter(pk__in=[made[0].pk, made[2].pk])
        old.update(updated_at=timezone.now() - timedelta(days=91))
        return made

    def test_what_is_old_goes_with_its_messages(
        self, conversations: list[Conversation]
    ) -> None:
        said = output_of("prune_conversations", "--older-than", "90d")

        assert said == "2 conversations were removed.\n"
        assert list(Conversation.objects.all()) == [conversations[1]]
        assert {m.conversation_id for m in Message.objects.all()} == {
            conversations[1].pk
        }

    def test_of_one_user_only(self, conversations: list[Conversation]) -> None:
        output_of("prune_conversations", "--older-than", "90d", "--user", "BOB")

        assert set(Conversation.objects.all()) == set(conversations[:2])

    def test_a_dry_run_only_counts(self, conversations: list[Conversation]) -> None:
        said = output_of("prune_conversations", "--older-than", "12w", "--dry-run")

        assert said == "2 conversations would be removed.\n"
        assert Conversation.objects.count() == 3

    @pytest.mark.parametrize("wrong", ["90", "d", "-1d", "3y"])
    def test_an_age_has_a_unit(self, db: None, wrong: str) -> None:
        with pytest.raises(CommandError, match="12h, 90d or 8w"):
            output_of("prune_conversations", f"--older-than={wrong}")

    def test_an_unknown_user_is_an_error(self, db: None) -> None:
        with pytest.raises(CommandError, match="no user 'nobody'"):
            output_of("prune_conversations", "--older-than=1d", "--user=nobody")


class TestUsageReport:
    HEAD = (
        "complete  stopped  truncated  failed  interrupted  prompt_tokens  "
        "completion_tokens  estimated_answers  "
    )

    @pytest.fixture(autouse=True)
    def some_days(self, alice: Any) -> None:
        bob = make_user("王小明")
        for owner, day, model, ends in (
            (alice, 1, "gpt-4o", {"complete": 9}),
            (alice, 2, "gpt-4o", {"complete": 2, "stopped": 1}),
            (alice, 3, "gpt-5", {"truncated": 1, "estimated_answers": 1}),
            (bob, 3, "gpt-5", {"complete": 100, "failed": 2, "interrupted": 3}),
        ):
            Usage.objects.create(
                **{"owner": owner, "day": date(2025, 3, day), "model": model, **ends},
                answers=1,
                prompt_tokens=10 ** (day - 1),
                completion_tokens=len(owner.username),
            )

    def report(self, by: str, since: str = "2025-03-02") -> list[str]:
        return output_of("usage_report", "--by", by, "--since", since).splitlines()

    def test_by_user(self) -> None:
        assert self.report("user") == [
            f"{self.HEAD}user",
            "       2        1          1       0            0            110  "
            "               10                  1  alice",
            "     100        0          0       2            3            100  "
            "                3                  0  王小明",
            "     102        1          1       2            3            210  "
            "               13                  1  (total)",
        ]

    def test_by_model(self) -> None:
        lines = [line.split() for line in self.report("model")]

        assert lines[1] == ["100", "0", "1", "2", "3", "200", "8", "1", "gpt-5"]
        assert lines[2] == ["2", "1", "0", "0", "0", "10", "5", "0", "gpt-4o"]
        assert len(lines) == 4

    def test_of_a_time_without_answers(self) -> None:
        assert [line.split()[-1] for line in self.report("user", "2025-03-04")] == [
            "user",
            "(total)",
        ]

    def test_it_is_one_query(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(1):
            self.report("user")

    def test_a_day_is_a_date(self) -> None:
        with pytest.raises(CommandError, match="a day like 2026-11-01"):
            self.report("user", "yesterday")


class TestIndexMessages:
    @pytest.fixture
    def bob(self, alice: Any) -> Any:
        """Alice has many messages, Bob some more, and Carol a few."""
        bob = make_user("bob")
        for owner, turns in (
            (alice, segments.MESSAGES // 2),
            (bob, segments.MESSAGES + 1),
            (make_user("carol"), 1),
        ):
            make_turns(make_conversation(owner), *["Hi"] * turns)
        return bob

    def indexed(self) -> dict[str, int]:
        owners = Message.objects.exclude(segment=None).values_list(
            "conversation__owner__username", flat=True
        )
        return dict(Counter(owners))

    def test_takes_those_of_who_has_many(self, bob: Any) -> None:
        said = output_of("index_messages")

        many = segments.MESSAGES
        assert said == f"{3 * many} messages were indexed.\n"
        assert self.indexed() == {"alice": many, "bob": 2 * many}
        assert output_of("index_messages") == "0 messages were indexed.\n"

    def test_of_one_user_only(self, bob: Any) -> None:
        output_of("index_messages", "--user", "BOB")

        assert set(self.indexed()) == {"bob"}

    def test_a_dry_run_only_counts(self, bob: Any) -> None:
        said = output_of("index_messages", "--dry-run")

        assert said == f"About {3 * segments.MESSAGES} messages would be indexed.\n"
        assert self.indexed() == {}

    def test_an_unknown_user_is_an_error(self, db: None) -> None:
        with pytest.raises(CommandError, match="no user 'nobody'"):
            output_of("index_messages", "--user=nobody")


class TestRotateFieldKeys:
    @pytest.fixture
    def alice(self, database: None) -> Any:
        return make_user("alice")

    def test_what_is_written_and_copied_meanwhile_is_sealed_anew_too(
        self, alice: Any, settings: Any, tmp_path: Path
    ) -> None:
        new, old = Fernet.generate_key().decode(), Fernet.generate_key().decode()
        (tmp_path / "db.keys").write_text(json.dumps({"field": [new, old]}))
        settings.KEYS = replace(settings.KEYS, field=(new, old))
        settings.CONFIG = replace(
            settings.CONFIG,
            sqlite=replace(settings.CONFIG.sqlite, path=tmp_path / "db"),
            database=replace(settings.CONFIG.database, url=""),
        )
        token = Fernet(old).encrypt(b"sk-own").decode()
        kept = {"owner": alice, "api_key": token, "model": "gpt-4o"}
        times = dict.fromkeys(("created_at", "updated_at"), timezone.now())
        Conversation.objects.bulk_create(
            Conversation(pk=pk, **kept, **times) for pk in range(1000, 1500)
        )

        class Copying(StringIO):
            """Whenever something is said, another connection stores a copy."""

            def write(self, text: str) -> int:
                def copy() -> None:
                    pk = Conversation.objects.order_by("pk").values_list("pk")[0][0]
                    Conversation.objects.create(pk=pk - 1, **kept, **times)
                    connection.close()

                thread = Thread(target=copy)
                thread.start()
                thread.join()
                return super().write(text)

        out = StringIO()
        call_command("rotate_field_keys", stdout=out, stderr=Copying())

        count = Conversation.objects.count()
        assert count > 500
        assert f"{count} stored API keys were sealed anew" in out.getvalue()
        assert json.loads((tmp_path / "db.keys").read_text())["field"] == [new]
        for sealed in Conversation.objects.values_list("api_key", flat=True):
            assert Fernet(new).decrypt(sealed.encode()) == b"sk-own"
