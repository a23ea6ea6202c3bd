"""Titles made of what was asked."""

from __future__ import annotations

import re

from django.conf import settings
from django.db.models import F

from conversations.models import Conversation

LENGTH = 40
SHORTEST = 6
_SENTENCE_END = re.compile(r"[。！？!?](?=.)|\.(?=\s)")
_PAUSE = re.compile(r"[\s，、；：,;:]")


def made_of(question: str) -> str:
    """The title that a question gives its conversation; empty where none is made."""
    if settings.CONFIG.chat.auto_title == "off":
        return ""
    return shortened(question)


def shortened(text: str) -> str:
    """
    About forty characters of `text`, cut after a sentence or before a word.

    >>> shortened("What is borrowing? I come from Java and know only references.")
    'What is borrowing?'
    >>> shortened("Explain ownership to somebody who has never seen it")
    'Explain ownership to somebody who has…'
    """
    line = " ".join(text.split())
    if len(line) <= LENGTH:
        return line
    ends = [match.end() for match in _SENTENCE_END.finditer(line[: LENGTH + 1])]
    if ends and ends[-1] >= SHORTEST:
        return line[: ends[-1]].rstrip(".。")
    pauses = [match.start() for match in _PAUSE.finditer(line[: LENGTH + 1])]
    cut = pauses[-1] if pauses and pauses[-1] >= SHORTEST else LENGTH
    return line[:cut] + "…"


def retitle(*, conversation_id: int, old: str, new: str) -> None:
    """Replace the title `old`; where it is another by now, or gone, nothing is done."""
    untouched = Conversation.objects.filter(pk=conversation_id, title=old)
    untouched.update(title=new, version=F("version") + 1)
