"""
What ChatGPT exports (`conversations.json`), as this project's own form. Pure.

There, everything is a node of a tree: questions, pieces of answers, calls of tools,
what the tools said, and texts nobody saw. Here there are questions and answers. So all
between a question and what follows it is one answer: what was shown is its text, what
went to and came from tools its reasoning. Nothing recurses: a tree may be deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from accounts.portable import iso
from llmbackend.errors import Invalid, TooLarge

# Where a tree divides within an answer, each branch has what is above in full.
MOST_CHARACTERS = 64_000_000
LONGEST_TITLE = 500
NO_MODEL = "unknown"
THOUGHTS = ("thoughts", "reasoning_recap")
# What a user tells every conversation of themselves.
CONTEXT = "user_editable_context"
_LATEST = 2**33

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A node's share of an answer, and the one before it."""

    node: Node
    text: str
    is_shown: bool
    before: _Piece | None

    def all(self) -> list[_Piece]:
        """From the first on."""
        pieces: list[_Piece] = []
        piece: _Piece | None = self
        while piece:
            pieces.append(piece)
            piece = piece.before
        return pieces[::-1]


@dataclass(frozen=True, slots=True)
class _Visit:
    """A node to be looked at: the last message above it, and the answer begun there."""

    node_id: str
    above: int | None = None
    question: int | None = None
    piece: _Piece | None = None


def own_form(raw: dict[str, Any]) -> dict[str, Any]:
    """One of ChatGPT's conversations as portable() would have it; raises Invalid."""
    mapping = raw["mapping"]
    if not isinstance(mapping, dict):
        raise Invalid("mapping: must be an object.")
    began = _moment(raw.get("create_time"), "create_time") or datetime.now(UTC)
    tree = _Tree(mapping, began)
    tree.walk()
    answers = [m for m in tree.messages if m["role"] == "assistant"]
    models = [raw.get("default_model_slug"), *(m["model"] for m in reversed(answers))]
    model = next((m for m in models if m and isinstance(m, str)), NO_MODEL)
    title = raw.get("title")
    return {
        "title": cleaned(title)[:LONGEST_TITLE] if isinstance(title, str) else "",
        "model": model,
        "system_prompt": tree.system_prompt or None,
        "created_at": iso(began),
        "updated_at": iso(_moment(raw.get("update_time"), "update_time") or began),
        "active_message_id": tree.number_at(raw.get("current_node")),
        "messages": tree.messages,
    }


class _Tree:
    """The messages of a mapping, in an order in which none comes before its parent."""

    def __init__(self, mapping: dict[str, Any], began: datetime) -> None:
        self.messages: list[dict[str, Any]] = []
        self.system_prompt = ""
        self._began = began
        self._nodes = {name: _checked(name, node) for name, node in mapping.items()}
        self._children = _children(self._nodes)
        self._numbers: dict[str, int] = {}
        self._characters = 0

    def walk(self) -> None:
        left = [_Visit(name) for name in reversed(self._children[None])]
        seen = 0
        while left:
            visit = left.pop()
            seen += 1
            left += reversed(list(self._visited(visit)))
        if seen < len(self._nodes):
            raise Invalid("mapping: a node is below itself.")

    def number_at(self, node_id: Any) -> int | None:
        """The message_id of what is at a node, or else next above it."""
        while isinstance(node_id, str) and node_id in self._nodes:
            if node_id in self._numbers:
                return self._numbers[node_id]
            node_id = self._nodes[node_id].get("parent")
        return None

    def _visited(self, visit: _Visit) -> Iterator[_Visit]:
        """Take a node in; the visits to what is below it."""
        node = self._nodes[visit.node_id]
        below = self._children.get(visit.node_id, [])
        if self._is_question(node):
            number = self._question(node, visit.above)
            self._numbers[visit.node_id] = number
            for name in below:
                yield _Visit(name, above=number, question=number)
            return
        piece = self._piece(node, visit.piece)
        questions = {name for name in below if self._is_question(self._nodes[name])}
        above = visit.above
        # Here an answer ends: somebody asks on, or nothing more was said.
        if piece and (questions or not below):
            above = self._answer(piece, visit.question, visit.above)
            self._numbers[visit.node_id] = above
        for name in below:
            if name in questions:
                yield _Visit(name, above=above)
            else:
                yield _Visit(name, visit.above, visit.question, piece)

    def _is_question(self, node: Node) -> bool:
        message = node["message"]
        return _role(message) == "user" and not _is_hidden(message)

    def _question(self, node: Node, above: int | None) -> int:
        message = node["message"]
        asked = [text_of(message["content"]), *_attachments(message)]
        text = "\n\n".join(part for part in asked if part)
        return self._add("user", above, text, [node])

    def _piece(self, node: Node, before: _Piece | None) -> _Piece | None:
        """What a node adds to the answer so far."""
        message = node["message"]
        if not message or _is_hidden(message):
            return before
        role, text = _role(message), text_of(message["content"])
        if role == "system":
            self.system_prompt = self.system_prompt or text
            return before
        if not text:
            return before
        to_tool = message.get("recipient") not in (None, "all")
        thought = message["content"].get("content_type") in THOUGHTS
        shown = role == "assistant" and not to_tool and not thought
        return _Piece(node, text, shown, before)

    def _answer(self, last: _Piece, question: int | None, above: int | None) -> int:
        if question is None:
            # Said without being asked; answers here have a question, if an empty one.
            question = self._add("user", above, "", [])
        pieces = last.all()
        shown = [piece for piece in pieces if piece.is_shown]
        number = self._add(
            "assistant",
            question,
            "\n\n".join(piece.text for piece in shown),
            [piece.node for piece in pieces],
        )
        ended = (shown or pieces)[-1].node["message"]
        self.messages[-1].update(
            reasoning="\n\n".join(p.text for p in pieces if not p.is_shown),
            model=_model(ended),
            **_end(ended),
        )
        self._characters += len(self.messages[-1]["reasoning"])
        return number

    def _add(
        self, role: str, parent: int | None, text: str, nodes: Sequence[Node]
    ) -> int:
        self._characters += len(text)
        if self._characters > MOST_CHARACTERS:
            raise TooLarge("The branches of this conversation are too much text.")
        times = [_moment(n["message"].get("create_time"), "create_time") for n in nodes]
        known = [time for time in times if time] or [self._began]
        number = len(self.messages) + 1
        self.messages.append(
            {
                "message_id": number,
                "parent_id": parent,
                "role": role,
                "content": text,
                "created_at": iso(known[0]),
                "finished_at": iso(known[-1]),
            }
        )
        return number


def _checked(name: str, node: Any) -> Node:
    """A node whose message, if it has one, has the parts that are looked at."""
    if not isinstance(node, dict):
        raise Invalid(f"mapping: node “{name}” must be an object.")
    message = node.get("message")
    if message is None:
        return {**node, "message": None}
    is_message = isinstance(message, dict) and isinstance(message.get("content"), dict)
    if not (is_message and isinstance(message.get("author"), dict)):
        raise Invalid(f"mapping: the message of node “{name}” cannot be read.")
    return node


def _children(nodes: dict[str, Node]) -> dict[str | None, list[str]]:
    """
    The nodes below each node, and below None those that begin.

    By what each says of its parent; in the order of the parent's own list, if it has
    them there.
    """
    below: dict[str | None, list[str]] = {None: []}
    for name, node in nodes.items():
        parent = node.get("parent")
        known = isinstance(parent, str) and parent in nodes
        below.setdefault(parent if known else None, []).append(name)
    for parent, names in below.items():
        listed = nodes[parent].get("children") if parent is not None else None
        if isinstance(listed, list):
            places = {
                name: at for at, name in enumerate(listed) if isinstance(name, str)
            }
            names.sort(key=lambda name: places.get(name, len(places)))
    return below


def places_in(listed: Sequence[Any]) -> Callable[[str], int]:
    """Where a name stands in a list, after all others if nowhere."""
    places = {str(name): place for place, name in enumerate(listed)}
    return lambda name: places.get(name, len(places))


def text_of(content: dict[str, Any]) -> str:
    """What stands in a message; of a picture or a sound, that there is one."""
    if isinstance(content.get("parts"), list):
        parts = [_part(part) for part in content["parts"]]
        return cleaned("\n\n".join(part for part in parts if part))
    if isinstance(content.get("thoughts"), list):
        return cleaned("\n\n".join(_part(thought) for thought in content["thoughts"]))
    texts = (content.get(name) for name in ("text", "result", "content"))
    return cleaned(next((text for text in texts if isinstance(text, str)), ""))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    for name in ("text", "content"):
        if isinstance(part.get(name), str):
            return str(part[name])
    kind = str(part.get("content_type", "attachment"))
    return f"[{kind.removesuffix('_asset_pointer').replace('_', ' ')}]"


def _attachments(message: Node) -> list[str]:
    attached = _metadata(message).get("attachments")
    if not isinstance(attached, list):
        return []
    names = [one.get("name") for one in attached if isinstance(one, dict)]
    return [cleaned(f"[file: {name}]") for name in names if isinstance(name, str)]


def _end(message: Node) -> dict[str, str]:
    """How an answer ended, as far as it is told."""
    details = _metadata(message).get("finish_details")
    kind = details.get("type") if isinstance(details, dict) else None
    if kind == "interrupted":
        return {"status": "stopped"}
    if message.get("status") == "in_progress":
        return {"status": "interrupted", "error_code": "interrupted"}
    return {"finish_reason": "length" if kind == "max_tokens" else "stop"}


def _role(message: Node | None) -> Any:
    return message["author"].get("role") if message else None


def _metadata(message: Node) -> dict[str, Any]:
    found = message.get("metadata")
    return found if isinstance(found, dict) else {}


def _model(message: Node) -> str:
    slug = _metadata(message).get("model_slug")
    return slug if isinstance(slug, str) else ""


def _is_hidden(message: Node) -> bool:
    hidden = _metadata(message).get("is_visually_hidden_from_conversation")
    return bool(hidden) or message["content"].get("content_type") == CONTEXT


def _moment(seconds: Any, name: str) -> datetime | None:
    if seconds is None:
        return None
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not (is_number and 0 <= seconds < _LATEST):
        raise Invalid(f"{name}: must be seconds since 1970.")
    return datetime.fromtimestamp(seconds, UTC)


def cleaned(text: str) -> str:
    """A text as the databases take it: without NUL and halves of characters."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "")
