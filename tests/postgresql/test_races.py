"""Two requests at once on PostgreSQL, where neither waits for the other to end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from django.contrib.auth.hashers import BCryptSHA256PasswordHasher

from tests.admin_browser import signed_in
from tests.chat.eventually import eventually
from tests.fake_provider import Script, refusal
from tests.patience import PATIENCE
from tests.postgresql.conftest import Here, Session
from tests.rag.embeddings import STATUTE, is_refused, make_base, upload

ARTICLES = "".join(f"第{n}条 这是第{n}条的内容。\n" for n in range(300))
PASSWORD = {"password": "correct horse battery"}
LONG_AGO = "2026-01-01T00:00:00Z"
EXPORT = {"format": "llmbackend.conversations", "version": 1}
COVERED = """
    SELECT count(segment_id) FROM conversations_message WHERE conversation_id = %s
"""
GONE_ON = "SELECT 1 FROM conversations_message WHERE content = 'Once upon'"
COUNTS = "SELECT (SELECT count(*) FROM rag_document), (SELECT count(*) FROM rag_chunk)"


@pytest.fixture
def base(here: Here) -> str:
    """An empty base that the provider embeds, and nothing else in the database."""
    here.session.rows("TRUNCATE rag_knowledgebase, accounts_idempotencykey CASCADE")
    return make_base(here.alice, embedding_model="fake-embedding")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def delete_base(here: Here, base: str) -> httpx2.Response:
    return here.alice.post("/api/rag/kb/delete", json={"kb_id": base})


def delete_document(here: Here, base: str) -> httpx2.Response:
    [(document,)] = here.session.rows("SELECT id FROM rag_document")
    body = {"kb_id": base, "doc_id": str(document)}
    return here.alice.post("/api/rag/doc/delete", json=body)


class TestTheSameBytesTwice:
    @pytest.mark.parametrize("nth", [1, 2, 3, 4])
    def test_what_became_ready_meanwhile_stays(
        self, here: Here, base: str, pool: ThreadPoolExecutor, nth: int
    ) -> None:
        sha256 = hashlib.sha256(STATUTE.encode()).hexdigest()
        here.embeddings.hold = True
        first = pool.submit(upload, here.alice, base, STATUTE)
        here.session.until("SELECT 1 FROM rag_document WHERE stage = 'chunked'")
        # Wherever the second stands when the first is done: statements that look for
        # these bytes are what it decides by.
        with here.wire.holding(sha256, nth=nth) as held:
            second = pool.submit(upload, here.alice, base, STATUTE)
            assert held.reached.wait(PATIENCE)
            assert eventually(lambda: here.embeddings.held)
            assert here.embeddings.held is not None
            here.embeddings.held.release.set()
            made = first.result().json()
        again = second.result().json()

        assert made["duplicate"] is False
        assert (again["duplicate"], again["doc_id"]) == (True, made["doc_id"])
        assert here.session.rows(COUNTS) == [(1, made["chunks"])]


class TestDeletedMeanwhile:
    def test_a_base_goes_with_the_chunks_that_are_just_stored(
        self, here: Here, base: str, pool: ThreadPoolExecutor
    ) -> None:
        with here.session.gate("BEFORE INSERT ON rag_chunk FOR EACH STATEMENT"):
            storing = pool.submit(upload, here.alice, base, STATUTE)
            here.session.until_waiting(1)
            deleting = pool.submit(delete_base, here, base)
            here.session.until_waiting(2)

        assert deleting.result().status_code == 200, deleting.result().text
        # Shown just before it went, perhaps.
        assert storing.result().status_code in {200, 404}, storing.result().text
        assert here.session.rows(COUNTS) == [(0, 0)]

    def test_a_document_goes_with_the_chunks_that_are_just_stored(
        self, here: Here, base: str, pool: ThreadPoolExecutor
    ) -> None:
        with here.session.gate("BEFORE INSERT ON rag_chunk FOR EACH STATEMENT"):
            storing = pool.submit(upload, here.alice, base, STATUTE)
            here.session.until_waiting(1)
            deleting = pool.submit(delete_document, here, base)
            here.session.until_waiting(2)

        assert deleting.result().status_code == 200, deleting.result().text
        # Shown just before it went, perhaps.
        assert storing.result().status_code in {200, 404}, storing.result().text
        assert here.session.rows(COUNTS) == [(0, 0)]

    def test_a_document_that_is_just_shown_goes(
        self, here: Here, base: str, pool: ThreadPoolExecutor
    ) -> None:
        shown = "AFTER UPDATE ON rag_document FOR EACH ROW WHEN (NEW.status = 'ready')"
        with here.session.gate(shown):
            showing = pool.submit(upload, here.alice, base, STATUTE)
            here.session.until_waiting(1)
            deleting = pool.submit(delete_document, here, base)
            here.session.until_waiting(2)

        assert showing.result().status_code == 200, showing.result().text
        assert deleting.result().status_code == 200, deleting.result().text
        assert here.session.rows(COUNTS) == [(0, 0)]

    def test_a_base_goes_while_an_upload_that_failed_is_undone(
        self, here: Here, base: str, pool: ThreadPoolExecutor
    ) -> None:
        here.embeddings.before = lambda number: refusal(401) if number > 4 else None
        undone = "BEFORE DELETE ON rag_document FOR EACH STATEMENT"
        with here.session.gate(undone):
            failing = pool.submit(upload, here.alice, base, ARTICLES)
            here.session.until_waiting(1)
            deleting = pool.submit(delete_base, here, base)
            here.session.until_waiting(2)

        is_refused(failing.result(), 502, "provider_auth")
        assert deleting.result().status_code == 200, deleting.result().text
        assert here.session.rows(COUNTS) == [(0, 0)]

    def test_a_base_goes_while_a_document_is_sent_that_failed_before(
        self, here: Here, base: str, pool: ThreadPoolExecutor
    ) -> None:
        upload(here.alice, base, STATUTE)
        here.session.rows("UPDATE rag_document SET status = 'failed'")
        with here.session.gate("BEFORE INSERT ON rag_document FOR EACH STATEMENT"):
            sending = pool.submit(upload, here.alice, base, STATUTE)
            here.session.until_waiting(1)
            deleting = pool.submit(delete_base, here, base)
            here.session.until_waiting(2)

        assert deleting.result().status_code == 200, deleting.result().text
        is_refused(sending.result(), 404, "not_found")
        assert here.session.rows(COUNTS) == [(0, 0)]


def test_what_a_deletion_uncovers_amid_a_search_is_found(
    here: Here, pool: ThreadPoolExecutor
) -> None:
    times = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    said = [
        {"message_id": n, "role": "user", "content": f"Rust {n}", **times}
        for n in range(1, 251)
    ]
    one = {"title": "", "model": "gpt-4o", **times, "messages": said}
    # One segment covers both.
    both = {**EXPORT, "conversations": [one, one]}
    search = "/api/conversations/search?q=rust&limit=200"
    with here.server.signed_in("searching") as client:
        made = client.post("/api/conversations/import", json=both).json()
        stays, goes = (each["conversation_id"] for each in made["conversations"])
        client.get(search).raise_for_status()
        [(covered,)] = here.session.rows(COVERED, stays)
        with here.wire.holding('FROM "conversations_searchbucket"', nth=1) as held:
            searching = pool.submit(client.get, search)
            assert held.reached.wait(PATIENCE)
            deleted = client.post(f"/api/conversations/del/{goes}")
        found = {hit["conversation_id"] for hit in searching.result().json()}

    assert covered == 250
    assert deleted.status_code == 200, deleted.text
    assert found == {stays}


def test_an_answer_is_gone_on_with_before_its_readers_are_told_of_its_end(
    here: Here, pool: ThreadPoolExecutor
) -> None:
    begun = Script(pieces=["Once"], stall_after=1, finish_reason="length")
    gone_on = Script(pieces=[" upon", " a time"], stall_after=1)
    here.provider.enqueue(begun, gone_on)
    sum_up = "OCTET_LENGTH"
    grant = "UPDATE accounts_user SET max_tokens_per_day = 9999 WHERE username = %s"
    with here.server.signed_in("storyteller") as client:
        here.session.rows(grant, "storyteller")
        body = {"title": "Rust", "model": "gpt-4o"}
        made = client.post("/api/conversations/create", json=body).json()
        path = f"/api/chat/{made['conversation_id']}"
        asking = pool.submit(client.post, path, json={"message": "Tell me a story."})
        assert begun.reached.wait(PATIENCE)
        with here.wire.holding(sum_up, nth=1) as held:
            begun.release.set()
            # The end is stored; now its readers wait for what is left of the limit.
            assert held.reached.wait(PATIENCE)
            going_on = pool.submit(client.post, f"{path}/continue")
            assert gone_on.reached.wait(PATIENCE)
        assert '"done"' in asking.result().text
        here.session.until(GONE_ON)
        gone_on.release.set()
        told = going_on.result().text

    assert told.endswith('"data":"Once upon a time"}\n\n'), told


def test_an_end_that_is_stored_is_told_though_its_commit_was_not_heard_of(
    here: Here, pool: ThreadPoolExecutor
) -> None:
    held = Script(pieces=["Hel", "lo"], stall_after=1)
    here.provider.enqueue(held)
    made = here.alice.post("/api/conversations/create", json={"model": "gpt-4o"})
    path = f"/api/chat/{made.json()['conversation_id']}"
    asking = pool.submit(here.alice.post, path, json={"message": "Hi"})
    assert held.reached.wait(PATIENCE)
    with here.wire.losing_commit_of("finished_at") as lost:
        held.release.set()
        told = asking.result().text

    assert lost.happened.is_set()
    assert told.endswith('"data":"Hello"}\n\n'), told


class TestTheAccountGoesMeanwhile:
    @pytest.mark.parametrize(
        ("table", "path", "body"),
        [
            (
                "conversations_conversation",
                "/api/conversations/create",
                {"model": "gpt-4o"},
            ),
            (
                "accounts_apikey",
                "/api/users/keys",
                {"name": "k", "scopes": ["chat"]},
            ),
            (
                "rag_knowledgebase",
                "/api/rag/kb/create",
                {"kb_name": "法律", "embedding_model": "fake-embedding"},
            ),
        ],
        ids=lambda value: value if str(value).startswith("/") else "",
    )
    def test_nothing_is_made_in_its_name(
        self,
        here: Here,
        pool: ThreadPoolExecutor,
        table: str,
        path: str,
        body: dict[str, Any],
    ) -> None:
        with here.server.signed_in(f"leaving {table}") as leaving:
            with here.session.gate(f"BEFORE INSERT ON {table} FOR EACH STATEMENT"):
                making = pool.submit(leaving.post, path, json=body)
                here.session.until_waiting(1)
                gone = leaving.request("DELETE", "/api/users/me", json=PASSWORD)

            assert gone.status_code == 200, gone.text
            assert making.result().status_code == 404, making.result().text
            assert making.result().json()["code"] == "not_found"
            assert leaving.get("/api/users/me").status_code == 401

    @pytest.mark.parametrize(
        ("method", "path", "column", "body"),
        [
            ("PATCH", "/api/users/me", "first_name", {"first_name": "Ann"}),
            (
                "POST",
                "/api/users/password",
                "password",
                {**PASSWORD, "new_password": "another fine password"},
            ),
        ],
        ids=["profile", "password"],
    )
    def test_it_is_not_changed_any_more(
        self,
        here: Here,
        pool: ThreadPoolExecutor,
        method: str,
        path: str,
        column: str,
        body: dict[str, Any],
    ) -> None:
        name = f"leaving {column}"
        changed = f"BEFORE UPDATE OF {column} ON accounts_user FOR EACH STATEMENT"
        with here.server.signed_in(name) as leaving:
            with here.session.gate(changed):
                changing = pool.submit(leaving.request, method, path, json=body)
                here.session.until_waiting(1)
                here.session.rows("DELETE FROM accounts_user WHERE username = %s", name)

            assert changing.result().status_code == 401, changing.result().text
            noted = "SELECT 1 FROM accounts_auditentry WHERE action = 'password_set'"
            assert here.session.rows(noted) == []


class Dearer(BCryptSHA256PasswordHasher):
    """Hashes at another cost than the server is configured with."""

    rounds = 5


def test_a_password_that_is_set_amid_a_log_in_stays(
    here: Here, pool: ThreadPoolExecutor
) -> None:
    old, new = PASSWORD["password"], "another fine password"
    hasher = Dearer()
    hash_of = {text: hasher.encode(text, hasher.salt()) for text in (old, new)}
    renewed = "BEFORE UPDATE OF password ON accounts_user FOR EACH STATEMENT"

    def set_to(password: str) -> None:
        change = "UPDATE accounts_user SET password = %s WHERE username = %s"
        here.session.rows(change, hash_of[password], "ann")

    with here.server.signed_in("ann") as client:

        def log_in(password: str) -> httpx2.Response:
            who = {"username": "ann", "password": password}
            return client.post("/api/users/login", json=who)

        set_to(old)
        with here.session.gate(renewed):
            logging_in = pool.submit(log_in, old)
            here.session.until_waiting(1)
            set_to(new)
        logging_in.result()

        assert [log_in(each).status_code for each in (new, old)] == [200, 401]


def test_tokens_that_are_ended_while_the_admin_stores_an_account_stay_so(
    here: Here, pool: ThreadPoolExecutor
) -> None:
    password = PASSWORD["password"]
    making = ("createsuperuser", "--noinput", "--username=root", "--email=")
    here.server.manage(*making, DJANGO_SUPERUSER_PASSWORD=password)
    stored = "BEFORE UPDATE OF first_name ON accounts_user FOR EACH STATEMENT"
    with (
        here.server.signed_in("edited") as edited,
        signed_in(here.server.base_url, "root", password) as browser,
    ):
        pk = edited.get("/api/users/me").json()["user_id"]
        form = {"username": "edited", "first_name": "Ann", "is_active": "on"}
        with here.session.gate(stored):
            path = f"/admin/accounts/user/{pk}/change/"
            storing = pool.submit(browser.send, path, form)
            here.session.until_waiting(1)
            here.session.rows(
                "UPDATE accounts_user SET token_version = token_version + 1"
                " WHERE id = %s",
                pk,
            )
        storing.result()

        changed = "SELECT first_name FROM accounts_user WHERE id = %s"
        assert here.session.rows(changed, pk) == [("Ann",)]
        assert edited.get("/api/users/me").status_code == 401


def test_a_claim_that_is_given_up_meanwhile_is_the_next_ones(
    here: Here, base: str, pool: ThreadPoolExecutor
) -> None:
    create = "/api/conversations/create"
    body = {"title": "Rust", "model": "gpt-4o"}
    asked: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "once"}}
    here.alice.post(create, **asked).raise_for_status()
    claimed = "AFTER INSERT ON accounts_idempotencykey FOR EACH STATEMENT"
    give_up = "DELETE FROM accounts_idempotencykey"
    with here.session.gate(claimed):
        again = pool.submit(here.alice.post, create, **asked)
        here.session.until_waiting(1)
        other = Session(here.server.database_url)
        giving_up = pool.submit(other.rows, give_up)
        assert eventually(lambda: giving_up.done() or here.session.waiting == 2)

    assert again.result().status_code == 200, again.result().text
    giving_up.result()
    other.close()


@pytest.mark.parametrize("state", ["40P01", "40001"])
def test_who_is_in_anothers_way_is_asked_to_come_back(
    here: Here, base: str, state: str
) -> None:
    here.session.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '{state}'; END $$"
    )
    here.session.rows(
        "CREATE TRIGGER refuse BEFORE DELETE ON rag_knowledgebase"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
    )
    try:
        refused = delete_base(here, base)
    finally:
        here.session.rows("DROP FUNCTION refuse CASCADE")

    is_refused(refused, 503, "database_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert "secret" not in refused.text
    assert delete_base(here, base).status_code == 200
