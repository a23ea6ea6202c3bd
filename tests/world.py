"""
Everyone who may try a route, and what Alice owns.

It is made by the requests and deeds that make such things, and its rows are kept, to be
put into the empty database of every test.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import models, transaction
from django.utils import timezone

from accounts import logins
from accounts.grants import CHAT, SCOPES
from accounts.models import User
from accounts.tokens import issue, refresh_claims_of
from conversations.models import Writer
from rag.dense import pack
from rag.models import Chunk, Document, KnowledgeBase
from rag.ngrams import DIMENSION, passage_vectors
from rag.terms import pack_terms
from tests.conftest import PASSWORD, Client, Served, client_of, make_key, make_user
from tests.rag.embeddings import make_base

NOBODY = (
    "anonymous",
    "alice deactivated",
    "alice logged out",
    "alice logged out everywhere",
    "alice with a refresh token",
    "alice with an expired key",
)
OTHERS = ("mallory", "staff")
ACTORS = (*NOBODY, *OTHERS, "alice")
# Heartbeats of serving processes are no one's.
MODELS = [model for model in apps.get_models() if model is not Writer]


@dataclass(frozen=True)
class World:
    """What Alice owns by its name in a path, each actor's bearer, and all rows."""

    owned: dict[str, Any]
    bearers: dict[str, str]
    rows: list[tuple[type[models.Model], list[models.Model]]]

    def put_back(self) -> None:
        """Have all rows in the database, which must have none."""
        with transaction.atomic():
            for model, rows in self.rows:
                model._base_manager.bulk_create(rows)


def make_world(served: Served) -> World:
    """Make it in a database where nobody has an account."""
    before = {model: set(pks(model)) for model in MODELS}
    alice = make_user("alice")
    with client_of(served, alice) as client:
        owned = owned_by(alice, client)
    bearers = bearers_of(alice)
    made = [(m, list(m._base_manager.exclude(pk__in=before[m]))) for m in MODELS]
    return World(owned, bearers, [(model, rows) for model, rows in made if rows])


def pks(model: type[models.Model]) -> list[Any]:
    return list(model._base_manager.values_list("pk", flat=True))


def owned_by(alice: User, client: Client) -> dict[str, Any]:
    """What Alice owns, one of each kind, and the refresh token of someone else."""
    conversation = client.conversation()
    client.ask(conversation, "A question of Alice's")
    base = make_base(client, kb_name="A base of Alice's")
    document = stored_document(uuid.UUID(base), "A document of Alice's")
    return {
        "conversation_id": conversation,
        "kb_id": base,
        "doc_id": document,
        "key_id": str(make_key(alice, CHAT)[0].pk),
        "refresh": logins.begin(make_user("carol")).refresh,
    }


def stored_document(base: uuid.UUID, text: str) -> str:
    """A ready document of one chunk, without the second that an upload takes."""
    document = Document.objects.create(
        knowledge_base_id=base,
        name="alice.txt",
        type="txt",
        sha256=uuid.uuid4().hex * 2,
        embedding_model="local-ngram",
        status=Document.Status.READY,
        chunks_total=1,
        created_at=timezone.now(),
    )
    Chunk.objects.create(
        document=document,
        ordinal=0,
        text=text,
        start=0,
        end=len(text),
        embedding=pack(passage_vectors([text])[0]),
        terms=pack_terms(text),
    )
    KnowledgeBase.objects.filter(pk=base).update(dimension=DIMENSION, version=1)
    return str(document.pk)


def bearers_of(alice: User) -> dict[str, str]:
    """A token or key for each actor; what befalls Alice later, none shows yet."""
    make_user("bob")
    staff = User.objects.create_superuser("root", password=PASSWORD)
    ended = logins.begin(alice)
    logins.end(refresh_claims_of(ended.refresh))
    own = {
        "anonymous": "",
        "mallory": issue(make_user("mallory")),
        "staff": issue(staff),
        "alice logged out": ended.token,
        "alice with a refresh token": logins.begin(alice).refresh,
        "alice with an expired key": make_key(
            alice, *SCOPES, expires_at=timezone.now()
        )[1],
    }
    return {name: own[name] if name in own else issue(alice) for name in ACTORS}


class Cast(dict[str, Client]):
    """A client for each actor, made when it is asked for."""

    def __init__(self, client_for: Callable[[str], Client]) -> None:
        super().__init__()
        self._client_for = client_for

    def __missing__(self, actor: str) -> Client:
        return self.setdefault(actor, self._client_for(actor))
