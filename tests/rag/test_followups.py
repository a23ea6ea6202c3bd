"""A question is looked up by itself and behind those before it."""

from __future__ import annotations

import pytest

from rag.followups import LONGEST, Reading, is_follow_up, readings

RENT = "What rent does the tenant of the flat pay?"


def texts(question: str, *before: str) -> list[str]:
    return [reading.text for reading in readings(question, before=before)]


def test_the_first_question_is_all_there_is():
    assert readings(RENT, before=[]) == [Reading(RENT, 1.0)]
    assert readings("Why?", before=[]) == [Reading("Why?", 1.0)]


@pytest.mark.parametrize(
    ("question", "alone"), [("Why?", 0.3), ("How long do storks live?", 0.5)]
)
def test_a_later_one_is_looked_up_both_ways(question, alone):
    asked = readings(question, before=[RENT])

    assert {reading.text: reading.weight for reading in asked} == {
        question: alone,
        f"{RENT}\n{question}": 1 - alone,
    }


def test_it_is_judged_as_it_seems_to_be_asked():
    assert texts("Why?", RENT)[0] == f"{RENT}\nWhy?"
    assert texts("How long do storks live?", RENT)[0] == "How long do storks live?"


def test_a_follow_up_on_a_follow_up_leads_to_what_it_is_about():
    storks = "How long do storks live?"

    assert texts("And when?", storks, RENT, "Who pays it?")[0] == (
        f"{RENT}\nWho pays it?\nAnd when?"
    )


def test_there_is_an_end_to_what_came_before():
    assert texts("When?", RENT, *["Why?"] * 5)[0] == "Why?\nWhy?\nWhy?\nWhen?"
    assert texts("When?", "rent " * 1000)[0] == f"{('rent ' * 1000)[:LONGEST]}\nWhen?"


@pytest.mark.parametrize(
    "question",
    [
        *["And who pays for it?", "What about storks?", "Why is that?", "Does it end?"],
        *["Why?", "How much?", "How long?", "Tell me more.", "What else?"],
        *[
            "那谁来付呢?",
            "它多少钱?",
            "这个可以退吗?",
            "违约金呢?",
            "那么定金又该怎么算",
        ],
        *[
            "为什么?",
            "为什么呢",
            "多少钱?",
            "什么时候?",
            "在哪里?",
            "还有呢?",
            "详细说说",
        ],
    ],
)
def test_what_leans_on_the_question_before_is_known(question):
    assert is_follow_up(question)


@pytest.mark.parametrize(
    "question",
    [
        "What does clause seven of the supply contract say on notice?",
        *["What is photosynthesis?", "Who is her Majesty's landlord?", "定金?"],
        *["不可抗力条款是什么?", "租期多久?", "其他费用有哪些?", "那里有什么鸟?"],
    ],
)
def test_what_stands_by_itself_is_known(question):
    assert not is_follow_up(question)
