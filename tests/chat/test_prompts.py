"""chat.prompts: what a model is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, strategies as st

from chat.prompts import plain
from llmbackend.token_counts import tokens


@dataclass(frozen=True)
class Said:
    role: str
    content: str


def user(text: str) -> Said:
    return Said("user", text)


def assistant(text: str) -> Said:
    return Said("assistant", text)


def asked(earlier: list[Said], question: str = "Now?", budget: int = 10_000) -> Any:
    return plain(
        system_prompt="Be kind.", earlier=earlier, question=question, budget=budget
    )


def test_system_then_turns_then_the_question() -> None:
    messages = asked([user("One?"), assistant("1.")])

    assert messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1."},
        {"role": "user", "content": "Now?"},
    ]


def test_without_a_system_prompt_there_is_no_system_message() -> None:
    messages = plain(system_prompt="", earlier=[], question="Now?", budget=100)

    assert messages == [{"role": "user", "content": "Now?"}]


def test_questions_without_an_answer_are_joined_with_the_next() -> None:
    earlier = [user("a"), assistant(""), user("b"), assistant("B"), user("c")]

    contents = [m["content"] for m in asked([*earlier, assistant("")])]

    assert contents == ["Be kind.", "a\n\nb", "B", "c\n\nNow?"]


def test_passages_stand_before_what_is_asked_and_not_in_the_system_prompt() -> None:
    messages = plain(
        system_prompt="Be kind.",
        earlier=[user("a"), assistant("A"), user("c")],
        passages="[1] Swifts fly.",
        question="Now?",
        budget=100,
    )

    assert messages[0] == {"role": "system", "content": "Be kind."}
    assert messages[-1] == {"role": "user", "content": "[1] Swifts fly.\n\nc\n\nNow?"}


def test_passages_leave_less_room_for_what_was_said() -> None:
    earlier = [user("a"), assistant("A" * 60)]

    messages = plain(
        system_prompt="", earlier=earlier, passages="p" * 90, question="q", budget=40
    )

    assert [m["content"] for m in messages] == ["p" * 90 + "\n\nq"]


def test_the_oldest_whole_turns_are_dropped_first() -> None:
    earlier = [user("旧" * 50), assistant("答" * 50), user("新"), assistant("答")]

    messages = asked(earlier, budget=20)

    assert [m["content"] for m in messages] == ["Be kind.", "新", "答", "Now?"]


def test_prompt_and_question_are_kept_whatever_their_size() -> None:
    messages = asked([user("a"), assistant("b")], question="问" * 100, budget=10)

    assert [m["role"] for m in messages] == ["system", "user"]


@given(st.lists(st.tuples(st.text(min_size=1), st.text())), st.integers(0, 200))
def test_roles_alternate_and_the_budget_holds(
    turns: list[tuple[str, str]], budget: int
) -> None:
    earlier = [said for q, a in turns for said in (user(q), assistant(a))]

    messages = asked(earlier, budget=budget)

    roles = [m["role"] for m in messages[1:]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    spent = sum(tokens(m["content"]) for m in messages)
    assert spent <= budget or len(messages) == 2
