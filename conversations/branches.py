"""Messages form a tree: the active branch, and choosing another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F

from accounts.models import User
from conversations.models import Conversation, Message
from llmbackend.errors import AnswerInProgress, NotActive, NotFound

STREAMING = Message.Status.STREAMING


@dataclass(frozen=True, slots=True)
class Node:
    """A message without its text; `number` is its message_id."""

    pk: int
    number: int
    parent_id: int | None
    role: str
    status: str
    finish_reason: str


def nodes_of(conversation_id: int) -> dict[int, Node]:
    """Every message of a conversation, by primary key."""
    rows = Message.objects.filter(conversation=conversation_id).values_list(
        "pk", "number", "parent_id", "role", "status", "finish_reason"
    )
    return {row[0]: Node(*row) for row in rows}


def path_to(nodes: dict[int, Node], leaf_id: int | None) -> list[Node]:
    """The nodes from the root to `leaf_id`."""
    path = []
    node = nodes.get(leaf_id) if leaf_id else None
    while node is not None:
        path.append(node)
        node = nodes.get(node.parent_id) if node.parent_id else None
    return path[::-1]


def place_of(path: Sequence[Node], number: int, nodes: dict[int, Node]) -> int:
    """
    Where message `number` stands on the active branch.

    Raises NotFound for none of the conversation's, NotActive for another branch's.
    """
    for place, node in enumerate(path):
        if node.number == number:
            return place
    if any(node.number == number for node in nodes.values()):
        raise NotActive
    raise NotFound


@transaction.atomic
def choose(*, owner: User, conversation_id: int, message_id: int) -> int:
    """
    Make the branch of a message the active one, to its newest end; that end's id.

    Raises NotFound, and AnswerInProgress while an answer is being written.
    """
    owned = Conversation.objects.owned_by(owner).select_for_update()
    conversation = owned.fetch(conversation_id)
    nodes = nodes_of(conversation.pk)
    if any(node.status == STREAMING for node in nodes.values()):
        raise AnswerInProgress
    chosen = next((n for n in nodes.values() if n.number == message_id), None)
    if chosen is None:
        raise NotFound
    leaf = newest_end(nodes, chosen)
    if leaf.pk != conversation.active_leaf_id:
        Conversation.objects.filter(pk=conversation.pk).update(
            active_leaf=leaf.pk, version=F("version") + 1
        )
    return leaf.number


def newest_end(nodes: dict[int, Node], start: Node) -> Node:
    """The end of `start`'s branch, by the newest message wherever it divides."""
    newest: dict[int, Node] = {}
    for node in nodes.values():
        if node.parent_id is not None:
            other = newest.get(node.parent_id)
            if other is None or node.number > other.number:
                newest[node.parent_id] = node
    end = start
    while end.pk in newest:
        end = newest[end.pk]
    return end
