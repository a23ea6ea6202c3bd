"""PostgreSQL ends and comes back beneath a server that goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import fake_provider, postgresql_server
from tests.chat.eventually import eventually
from tests.fake_provider import Script
from tests.patience import PATIENCE
from tests.served import fake_section, serving


def test_requests_come_back_later_and_an_answer_is_kept(tmp_path: Path) -> None:
    with (
        fake_provider.running() as provider,
        postgresql_server.running() as database,
        serving(
            tmp_path,
            providers=fake_section(provider.base_url),
            **postgresql_server.config_for(tmp_path, server=database),
        ) as server,
        server.signed_in() as alice,
        ThreadPoolExecutor(1) as pool,
    ):
        body = {"title": "Rust", "model": "gpt-4o"}
        made = alice.post("/api/conversations/create", json=body).json()
        conversation = made["conversation_id"]
        held = Script(pieces=["Hel", "lo"], stall_after=1)
        provider.enqueue(held)
        path = f"/api/chat/{conversation}"
        asking = pool.submit(alice.post, path, json={"message": "Hi"})
        assert held.reached.wait(PATIENCE)

        database.stop()

        refused = alice.get("/api/conversations/list")
        assert refused.status_code == 503
        assert refused.json()["code"] == "database_unavailable"
        assert server.client().get("/readyz").json()["database"] == "unreachable"
        held.release.set()
        assert eventually(lambda: "An answer's end waits" in server.log, PATIENCE)

        database.start()

        assert asking.result().status_code == 200
        assert "Hello" in asking.result().text
        stored = "SELECT status, content FROM conversations_message WHERE role = "
        assert server.query(f"{stored} 'assistant'") == [("complete", "Hello")]
        server.wait_until_ready()
