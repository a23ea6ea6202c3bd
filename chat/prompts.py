"""The message lists a model is sent; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from llmbackend.token_counts import has_cjk, tokens


class Utterance(Protocol):
    """A message of the history: `role` is user or assistant."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


def plain(
    *,
    system_prompt: str,
    earlier: Iterable[Utterance],
    question: str,
    budget: int,
    passages: str = "",
) -> list[dict[str, str]]:
    """
    The system prompt, what was said, and the question, within `budget` tokens.

    Roles alternate: a question that got no text is joined with the next by an empty
    line, and `passages` to answer it from are before it in the same message. The oldest
    whole turns are dropped first; prompt, passages and question are kept whatever their
    size.
    """
    turns, unanswered = paired(earlier)
    asked = joined(passages, *unanswered, question)
    left = budget - tokens(system_prompt) - tokens(asked)
    kept: list[dict[str, str]] = []
    for said, answered in reversed(turns):
        left -= tokens(said) + tokens(answered)
        if left < 0:
            break
        kept.append({"role": "assistant", "content": answered})
        if said:
            kept.append({"role": "user", "content": said})
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, *reversed(kept), {"role": "user", "content": asked}]


def joined(*parts: str) -> str:
    """Those that are not empty, with an empty line between."""
    return "\n\n".join(part for part in parts if part)


def go_on(text: str) -> str:
    """
    What asks a model to go on with an answer that broke off, in its language.

    >>> go_on("Swifts fly")[:8]
    'Continue'
    """
    if has_cjk(text):
        return "请从刚才中断的地方继续,不要重复已经写出的内容,也不要加开场白。"
    return (
        "Continue exactly where your last message broke off. Do not repeat any of it, "
        "and do not introduce it."
    )


def paired(earlier: Iterable[Utterance]) -> tuple[list[tuple[str, str]], list[str]]:
    """Questions with their answers, and the questions at the end without one."""
    turns: list[tuple[str, str]] = []
    unanswered: list[str] = []
    for message in earlier:
        if message.role == "user":
            unanswered.append(message.content)
        elif message.content:
            turns.append(("\n\n".join(unanswered), message.content))
            unanswered = []
    return turns, unanswered
