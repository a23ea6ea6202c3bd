"""What is to be imported: read, checked, and said what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from django.core.validators import MaxValueValidator, MinValueValidator
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import BaseParser

from conversations import chatgpt
from conversations.models import Message
from conversations.portable import FORMAT, VERSION
from conversations.serializers import SettingsSerializer
from llmbackend.errors import Invalid, LLMBackendError, TooLarge
from llmbackend.fields import NumberField, StringField, UuidField, WholeNumberField
from llmbackend.http import sentence_of

MOST_CONVERSATIONS = 1000
MOST_MESSAGES = 10_000
MOST_SOURCES = 100
LARGEST_NUMBER = 2**31 - 1
# What is asked and answered later has room above it.
LARGEST_ID = 10**9
LONGEST_SNIPPET = 200
_ENDED = [status for status in Message.Status if status != Message.Status.STREAMING]
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A checked conversation, its messages in the order of their ids."""

    fields: dict[str, Any]
    messages: list[dict[str, Any]]
    active: int | None


class TextParser(BaseParser):
    """The body as text: what is in it is read piece by piece."""

    media_type = "*/*"

    def parse(
        self, stream: IO[Any], media_type: Any = None, parser_context: Any = None
    ) -> dict[str, str]:
        try:
            return {"text": stream.read().decode("utf-8-sig")}
        except UnicodeDecodeError:
            raise Invalid("The body is not UTF-8.") from None


def incoming(text: str) -> Iterator[Incoming]:
    """
    The conversations of an export, this project's own or ChatGPT's.

    Raises Invalid, naming the conversation and the message, both counted from 1, and
    TooLarge.
    """
    messages = 0
    for number, raw in enumerate(_conversations(text), start=1):
        if number > MOST_CONVERSATIONS:
            raise TooLarge(f"At most {MOST_CONVERSATIONS} conversations at once.")
        try:
            found = _checked(raw)
        except LLMBackendError as error:
            raise type(error)(f"Conversation {number}: {error}") from None
        messages += len(found.messages)
        if messages > MOST_MESSAGES:
            raise TooLarge(f"At most {MOST_MESSAGES} messages at once.")
        yield found


class _Reader:
    """
    JSON read value by value.

    The decoder holds the interpreter while it runs: a whole export at once would
    stop every stream of the process.
    """

    _decoder = json.JSONDecoder(parse_constant=lambda name: _refuse())

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.peek()

    def peek(self) -> str:
        """The next character that tells something; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def take(self, expected: str) -> bool:
        """Whether the next character is this one, which is then behind us."""
        found = self.peek() == expected
        self._at += found
        return found

    def value(self) -> Any:
        self.peek()
        try:
            found, self._at = self._decoder.raw_decode(self._text, self._at)
        except (ValueError, RecursionError):
            _refuse()
        return found

    def items(self, end: str) -> Iterator[None]:
        """Once before each item of what was just opened; the caller reads the item."""
        if self.take(end):
            return
        while True:
            yield
            if self.take(end):
                return
            if not self.take(","):
                _refuse()

    def finish(self) -> None:
        if self.peek():
            _refuse()


def _refuse() -> None:
    raise Invalid("The body is not valid JSON.")


def _conversations(text: str) -> Iterator[Any]:
    reader = _Reader(text)
    if reader.take("["):
        for _ in reader.items("]"):
            yield reader.value()
        reader.finish()
        return
    if not reader.take("{"):
        raise Invalid("The body must be a JSON object or array.")
    rest: dict[str, Any] = {}
    for _ in reader.items("}"):
        name = reader.value()
        if not (isinstance(name, str) and reader.take(":")):
            _refuse()
        if name == "conversations" and reader.take("["):
            for _ in reader.items("]"):
                yield reader.value()
            name = ""
        rest[name] = None if name == "" else reader.value()
    reader.finish()
    if "mapping" in rest:
        yield rest
    elif rest.get("format") != FORMAT or "" not in rest:
        raise Invalid(f"format: must be “{FORMAT}”, with conversations.")
    elif rest.get("version") != VERSION:
        raise Invalid(f"version: this server reads version {VERSION}.")


def _checked(raw: Any) -> Incoming:
    if not isinstance(raw, dict):
        raise Invalid("Must be an object.")
    if "mapping" in raw:
        raw = chatgpt.own_form(raw)
    listed = raw.get("messages", [])
    if not isinstance(listed, list):
        raise Invalid("messages: Must be an array.")
    if len(listed) > MOST_MESSAGES:
        raise TooLarge(f"At most {MOST_MESSAGES} messages at once.")
    fields = _validated(CONVERSATION, raw)
    messages = []
    for place, said in enumerate(listed, start=1):
        try:
            messages.append(_validated(MESSAGE, said))
        except Invalid as error:
            raise Invalid(f"message {place}: {error}") from None
    messages.sort(key=lambda message: message["message_id"])
    active = fields.pop("active_message_id")
    _check_tree(messages, active)
    if active is None and messages:
        active = messages[-1]["message_id"]
    return Incoming(fields, messages, active)


def _validated(shape: serializers.Serializer[Any], raw: Any) -> dict[str, Any]:
    try:
        return dict(shape.run_validation(raw))
    except ValidationError as error:
        raise Invalid(sentence_of(error.detail)) from None


def _check_tree(messages: list[dict[str, Any]], active: int | None) -> None:
    """Each message stands under an earlier one, and answers under questions."""
    roles: dict[int | None, str] = {None: ""}
    for message in messages:
        number, parent = message["message_id"], message["parent_id"]
        where = f"the message with message_id {number}"
        if number in roles:
            raise Invalid(f"{where} is there twice.")
        if parent not in roles:
            raise Invalid(f"{where}: parent_id must name a message with a smaller id.")
        is_answer = message["role"] == Message.Role.ASSISTANT
        if is_answer and roles[parent] != Message.Role.USER:
            raise Invalid(f"{where}: an answer must stand under a question.")
        roles[number] = message["role"]
    if active not in roles:
        raise Invalid("active_message_id: there is no such message.")


class MomentField(serializers.DateTimeField):
    """A time that both databases and Python can hold."""

    def __init__(self, **options: Any) -> None:
        bounds = [
            MinValueValidator(datetime(1970, 1, 1, tzinfo=UTC)),
            MaxValueValidator(datetime(9999, 1, 1, tzinfo=UTC)),
        ]
        super().__init__(validators=bounds, **options)


def text_field(*, longest: int | None = None, default: str = "") -> StringField:
    return StringField(
        default=default, allow_blank=True, trim_whitespace=False, max_length=longest
    )


def count_field() -> WholeNumberField:
    return WholeNumberField(
        default=None, allow_null=True, min_value=0, max_value=LARGEST_NUMBER
    )


def id_field(**options: Any) -> WholeNumberField:
    return WholeNumberField(min_value=1, max_value=LARGEST_ID, **options)


def place_field() -> WholeNumberField:
    return WholeNumberField(min_value=0, max_value=LARGEST_NUMBER)


class UuidTextField(UuidField):
    """A UUID that stays text, as JSON columns have it."""

    def to_internal_value(self, data: Any) -> Any:
        return str(super().to_internal_value(data))


class SourceSerializer(serializers.Serializer[Any]):
    """What an answer rests on; trusted to have these fields wherever it is read."""

    number = id_field()
    kb_id = UuidTextField()
    doc_id = UuidTextField()
    doc_name = text_field(longest=1000)
    score = NumberField(min_value=0, max_value=1)
    snippet = text_field(longest=LONGEST_SNIPPET)
    chunk_ids = serializers.ListField(
        child=WholeNumberField(min_value=1, max_value=2**53), max_length=MOST_SOURCES
    )
    start = place_field()
    end = place_field()
    page = count_field()
    heading_path = serializers.ListField(
        child=text_field(longest=1000), max_length=MOST_SOURCES
    )


class ConversationSerializer(SettingsSerializer):
    title = text_field(longest=500)
    model = StringField(max_length=200)
    created_at = MomentField()
    updated_at = MomentField()
    active_message_id = id_field(default=None, allow_null=True)


class MessageSerializer(serializers.Serializer[Any]):
    message_id = id_field()
    parent_id = id_field(default=None, allow_null=True)
    role = serializers.ChoiceField(Message.Role.choices)
    content = text_field()
    reasoning = text_field()
    status = serializers.ChoiceField(_ENDED, default=Message.Status.COMPLETE)
    finish_reason = text_field(longest=64)
    error_code = text_field(longest=64)
    model = text_field(longest=200)
    provider = text_field(longest=200)
    sources = serializers.ListField(
        child=SourceSerializer(), default=list, max_length=MOST_SOURCES
    )
    prompt_tokens = count_field()
    completion_tokens = count_field()
    tokens_estimated = serializers.BooleanField(default=False)
    created_at = MomentField()
    first_token_at = MomentField(default=None, allow_null=True)
    finished_at = MomentField(default=None, allow_null=True)


# One of each does for every conversation: making one costs more than using it.
CONVERSATION = ConversationSerializer()
MESSAGE = MessageSerializer()
