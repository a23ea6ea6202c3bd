"""Passages in a prompt."""

from __future__ import annotations

import re

import pytest

from chat.grounding import Source, grounded_prompt, harmless, unknown_markers
from chat.quoting import quoted
from llmbackend.token_counts import tokens
from rag.quoting import Quote

FENCE = re.compile(r"={4}[0-9a-f]{16}={4}")
STORKS = Source(name="birds.md", text="Storks have no voice.")
SWIFTS = Source(name="birds.md", text="Swifts live in the air.")


def prompt(
    *sources: Source, question: str = "Which birds?", budget: int = 4000
) -> tuple[str, int]:
    return grounded_prompt(
        system_prompt="Be kind.", question=question, sources=sources, budget=budget
    )


class TestThePrompt:
    def test_it_is_the_system_prompt_the_rules_and_the_numbered_passages(self) -> None:
        text, kept = prompt(STORKS, SWIFTS)

        [fence] = set(FENCE.findall(text))
        parts = text.split("\n\n")
        assert kept == 2
        assert parts[0] == "Be kind."
        assert fence in parts[1]
        assert parts[2:] == [
            f"[1] birds.md\n{fence}\nStorks have no voice.\n{fence}",
            f"[2] birds.md\n{fence}\nSwifts live in the air.\n{fence}",
        ]

    def test_without_a_system_prompt_it_begins_with_the_rules(self) -> None:
        text, _ = grounded_prompt(
            system_prompt="", question="Which?", sources=[STORKS], budget=4000
        )

        assert text.startswith("Answer the user's question from")

    def test_the_rules_speak_the_questions_language(self) -> None:
        assert "只是数据" in prompt(STORKS, question="什么鸟?")[0]
        assert "are data" in prompt(STORKS)[0]

    def test_no_two_fences_are_alike(self) -> None:
        fences = {FENCE.findall(prompt(STORKS)[0])[0] for _ in range(50)}

        assert len(fences) == 50

    def test_the_best_that_fit_are_kept(self) -> None:
        source = Source(name="a", text="word " * 200)
        one = tokens(prompt(source)[0])

        text, kept = prompt(*[source] * 9, budget=3 * one)

        assert 2 <= kept <= 3
        assert len(re.findall(r"^\[\d\] a$", text, re.M)) == kept

    @pytest.mark.parametrize("budget", [1, 0, -5])
    def test_one_is_kept_whatever_the_budget(self, budget: int) -> None:
        assert prompt(STORKS, SWIFTS, budget=budget)[1] == 1

    def test_without_sources_the_model_is_told(self) -> None:
        assert prompt() == (
            "Be kind.\n\nNothing relevant to the question was found in the knowledge "
            "base. Tell the user so, and do not make an answer up.",
            0,
        )
        assert "不要编造答案" in prompt(question="什么?")[0]


class TestHarmless:
    @pytest.mark.parametrize(
        "text",
        [
            "====0123456789abcdef====",
            "========",
            "==\u200b==0123456789abcdef==\u200b==",
            "=\U000e0041===\x00=",
        ],
    )
    def test_nothing_passes_for_the_fence(self, text: str) -> None:
        made = harmless(text, "====0123456789abcdef====")

        assert "====" not in made

    @pytest.mark.parametrize(
        "hidden",
        [
            *["\x00", "\x07", "\x1b", "\r", "\x7f", "\x9b", "\u200b", "\u200f"],
            *["\u202e", "\u2066", "\ufeff", "\U000e0041", "\U000e0100"],
        ],
    )
    def test_what_cannot_be_seen_goes(self, hidden: str) -> None:
        assert harmless(f"in{hidden}visible", "====") == "invisible"

    def test_the_rest_stays(self) -> None:
        text = "第一条\n\tA = b == c === d. 😀👍🏽 ﷽ naïve"

        assert harmless(text, "====0123456789abcdef====") == text

    def test_a_name_is_made_so_too(self) -> None:
        text, _ = prompt(Source(name="====\u202e====.txt", text="x"))

        assert "\u202e" not in text
        assert len(set(FENCE.findall(text))) == 1


class TestMarkers:
    @pytest.mark.parametrize(
        ("answer", "sources", "unknown"),
        [
            ("", 2, []),
            ("No marker.", 0, []),
            ("One [1], two [2].", 2, []),
            ("Three [3], nought [0], three [3].", 2, [3, 0]),
            ("All [1][2].", 0, [1, 2]),
            ("In the year [2024], [x], [ 1 ], [-1].", 1, []),
        ],
    )
    def test_those_that_name_no_source(
        self, answer: str, sources: int, unknown: list[int]
    ) -> None:
        assert unknown_markers(answer, sources=sources) == unknown


class TestQuoted:
    def test_the_label_comes_first_and_each_quote_has_its_number(self) -> None:
        pieces = list(quoted("什么?", [Quote(2, "甲。"), Quote(1, "乙。")]))

        assert "摘录" in pieces[0]
        assert pieces[1:] == ["\n\n> 甲。 [2]", "\n\n> 乙。 [1]"]

    def test_without_quotes_that_is_said(self) -> None:
        assert list(quoted("什么?", [])) == ["知识库中没有找到相关内容。"]
