"""
What a question may mean behind those before it; pure.

Whether a question leans on the one before is hard to tell from its words, and need not
be: each is looked up by itself and together with what came before, and a passage counts
by both. A question that stands by itself then loses next to nothing to a change of the
subject, and one that does not is found all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What a question weighs by itself, and one that seems to lean on the one before;
# together with those before it, the rest.
ALONE = 0.5
LEANING = 0.3
# How many of the questions before are looked at, and how much of each: what an
# embedding model reads at all is perhaps 500 tokens.
MOST = 3
LONGEST = 200

_REFERS_BACK = re.compile(
    r"^\W*(and|but|so|then|also|or|what about|how about)\b"
    r"|\b(it|they|them|he|him|she|this|these|those)\b"
    r"|(?<!其)[它他她]|[这那](?!里)|其(?![他它中实余次])|此(?!外)|呢\W*$",
    re.IGNORECASE,
)
# What is left of a question without these is what it is about.
_ASKS = re.compile(
    r"\b(an?|the|that|is|are|was|were|do|does|did|can|could|will|would|shall|should|may|has"
    r"|have|had|be|been|to|in|of|for|at|by|on|from|with|why|how|when|where|who|whom"
    r"|whose|which|what|much|many|long|often|far|soon|old|else|more|exactly|really|not"
    r"|no|yes|ok|okay|please|tell|say|explain|me|us|there|then|come|happens?|happened)\b"
    r"|[为什么怎样办如何多少几哪里儿谁吗呢吧啊呀嘛还有没能会可以要需应该是的了在时候久"
    r"点请说讲再更详细具体一下些我们你您都就和或跟不]|\W",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A text to look up, and what its finds weigh: all readings' weights make 1."""

    text: str
    weight: float


def readings(question: str, *, before: Sequence[str]) -> list[Reading]:
    """
    What to look up for a question: by itself, and behind the questions before it.

    The first is the one it seems to be asked as: what is found is judged by that.
    """
    if not before:
        return [Reading(question, 1.0)]
    behind = _behind(question, before)
    if is_follow_up(question):
        return [Reading(behind, 1 - LEANING), Reading(question, LEANING)]
    return [Reading(question, ALONE), Reading(behind, 1 - ALONE)]


def is_follow_up(question: str) -> bool:
    """
    Whether a question says itself that it leans on the one before, or says nothing.

    >>> is_follow_up("And who pays for it?"), is_follow_up("那谁来付呢?")
    (True, True)
    >>> is_follow_up("How much?"), is_follow_up("为什么?"), is_follow_up("多少钱?")
    (True, True, True)
    >>> is_follow_up("What does clause seven of the supply contract say on notice?")
    False
    >>> is_follow_up("租赁期限最长几年?")
    False
    """
    return bool(_REFERS_BACK.search(question)) or len(_ASKS.sub("", question)) < 2


def _behind(question: str, before: Sequence[str]) -> str:
    """The question behind the last one, and behind what that leans on itself."""
    asked = [question]
    for earlier in before[: -MOST - 1 : -1]:
        asked.insert(0, earlier[:LONGEST])
        if not is_follow_up(earlier):
            break
    return "\n".join(asked)
