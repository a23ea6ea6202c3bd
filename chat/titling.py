"""A title by the model itself, once it has answered a conversation's first question."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace

from django.conf import settings

from chat.relay import Limits, ModelRequest, relay
from chat.writing import connect, deadlines
from conversations.titles import retitle, shortened
from conversations.turns import Turn
from llmbackend.chat_models import QUOTE
from llmbackend.connected import Providers
from llmbackend.errors import LLMBackendError
from llmbackend.threads import DatabaseThreads
from llmbackend.token_counts import has_cjk

logger = logging.getLogger(__name__)

SECONDS = 60.0
# What the model is shown of question and answer.
SHOWN = 1000
# A model that thinks aloud may take some room before it comes to the title.
LIMITS = Limits(answer_characters=16_000, retries=0)

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_LABEL = re.compile(r"^(title|标题)\s*[::]\s*", re.IGNORECASE)
_MARKS = " \t\"'`*#“”‘’「」『』《》【】.。"


class Titles:
    """Asks for titles in the background; nobody waits for them, and none is needed."""

    def __init__(self, *, threads: DatabaseThreads, providers: Providers) -> None:
        self._threads = threads
        self._providers = providers
        self._tasks: set[asyncio.Task[None]] = set()

    def ask_for(self, turn: Turn, *, answer: str) -> None:
        """Have the conversation retitled, if its title is only its first question."""
        by_model = settings.CONFIG.chat.auto_title == "model"
        if not by_model or not turn.titled or turn.model == QUOTE:
            return
        task = asyncio.create_task(self._retitle(turn, answer))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _retitle(self, turn: Turn, answer: str) -> None:
        try:
            said = await _said(turn, answer, self._providers)
        except LLMBackendError as error:
            logger.warning(
                "Conversation %s keeps its first title (%s)",
                turn.conversation_id,
                error.code,
            )
            return
        title = cleaned(said)
        if title:
            await self._threads.run(
                retitle,
                conversation_id=turn.conversation_id,
                old=turn.titled,
                new=title,
            )

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("A title could not be given", exc_info=task.exception())

    async def aclose(self) -> None:
        """Give up what is not there yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _said(turn: Turn, answer: str, providers: Providers) -> str:
    connection = await connect(turn, providers)
    title = _Title()
    await relay(
        title,
        client=connection.client,
        provider=turn.provider,
        request=ModelRequest(model=turn.model, messages=request(turn.question, answer)),
        api_key=connection.api_key,
        deadlines=replace(deadlines(), total=SECONDS),
        limits=LIMITS,
    )
    return title.text


class _Title:
    """What a model says, without what it thinks."""

    def __init__(self) -> None:
        self.text = ""

    def grow(self, *, text: str, reasoning: str) -> None:
        self.text += text


def request(question: str, answer: str) -> list[dict[str, str]]:
    """What the model is sent, in the language of the question."""
    if has_cjk(question):
        wanted = "请为下面的对话起一个不超过 15 个字的标题。只输出标题本身。"
    else:
        wanted = (
            "Give the conversation below a title of at most six words, in its "
            "language. Write the title alone."
        )
    talk = f"{question[:SHOWN]}\n\n{answer[:SHOWN]}"
    return [{"role": "user", "content": f"{wanted}\n\n{talk}"}]


def cleaned(said: str) -> str:
    """
    The title in what a model said; empty where there is none.

    >>> cleaned('<think>Hm.</think> **Title: "Owning and borrowing".**')
    'Owning and borrowing'
    """
    lines = (line.strip(_MARKS) for line in _THOUGHT.sub("", said).splitlines())
    first = next((line for line in lines if line), "")
    return shortened(_LABEL.sub("", first).strip(_MARKS))
