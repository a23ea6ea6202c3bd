"""/api/rag/doc/*, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from rag.models import Chunk, Document
from tests.conftest import Client, Served
from tests.patience import PATIENCE
from tests.rag.documents import (
    body,
    lines,
    pages_pdf,
    paragraph,
    raw_docx,
    simple_docx,
)
from tests.rag.embeddings import (
    BIRDS,
    STATUTE,
    Embeddings,
    added,
    answer_on,
    as_sent,
    connected,
    found,
    is_refused,
    make_base,
    upload,
)
from tests.rag.test_knowledge_bases import NO_UUIDS

PDF = pages_pdf(lines("Swallows winter south."), lines("Storks have no voice."))
DOCX = simple_docx("Swallows winter south.", "Storks have no voice.")


def listed(client: Client, base: str) -> list[dict[str, Any]]:
    response = client.get("/api/rag/doc/list", params={"kb_id": base})
    assert response.status_code == 200, response.text
    return list(response.json()["docs"])


def limited(settings: Any, **limits: int) -> None:
    changed = replace(settings.CONFIG.limits, **limits)
    settings.CONFIG = replace(settings.CONFIG, limits=changed)


class TestUpload:
    def test_it_answers_when_the_document_can_be_found(
        self, as_alice: Client, base: str
    ) -> None:
        response = upload(as_alice, base)

        assert response.status_code == 200
        body = response.json()
        chunks = Chunk.objects.count()
        assert chunks == 4
        assert body["success"] is True
        assert body["doc_id"] == str(uuid.UUID(body["doc_id"]))
        assert body["message"] == "文档上传处理成功,共分割并添加 4 个文本块"
        assert (body["chunks"], body["encoding"]) == (4, "utf-8")
        assert body["duplicate"] is False
        assert found(as_alice, base, "不可抗力")[0]["doc_id"] == body["doc_id"]

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("合同.txt".encode("gbk"), "合同.txt"),
            ("誠㐀.txt".encode("gb18030"), "誠㐀.txt"),  # 誠 ends as a backslash does.
            (b"\xff.txt", "\ufffd.txt"),
            ("Bäume é.txt".encode(), "Bäume é.txt"),
        ],
    )
    def test_a_name_may_come_in_bytes_of_another_encoding(
        self, as_alice: Client, base: str, name: bytes, shown: str
    ) -> None:
        """As curl sends it on a Chinese Windows; the content stays as it is."""
        form_inside = '--y\r\nContent-Disposition: x; filename="合同.txt"\r\n\r\n'
        content = (STATUTE + form_inside).encode("gb18030")

        with connected(as_alice) as connection:
            connection.sendall(as_sent(as_alice, base, content, name=name))
            response = answer_on(connection)

        assert response.status_code == 200, response.text
        document = Document.objects.get()
        assert document.name == shown
        assert document.sha256 == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize(
        ("name", "content", "file_type"),
        [
            ("a.txt", BIRDS.encode(), "txt"),
            ("a.md", BIRDS.encode(), "md"),
            ("a.markdown", BIRDS.encode(), "md"),
            ("A.TXT", BIRDS.encode(), "txt"),
            ("a.docx", DOCX, "docx"),
            ("a.pdf", PDF, "pdf"),
        ],
    )
    def test_every_type_is_listed_and_found(
        self, as_alice: Client, base: str, name: str, content: bytes, file_type: str
    ) -> None:
        document = added(as_alice, base, content, name=name)

        shown = listed(as_alice, base)[0]
        assert (shown["doc_name"], shown["file_type"]) == (name, file_type)
        best = found(as_alice, base, "Where do swallows winter?")[0]
        assert (best["doc_id"], best["doc_name"]) == (document, name)

    def test_the_page_of_a_pdf_is_kept(self, as_alice: Client, base: str) -> None:
        swallows = lines(*["Swallows winter south of the Sahara."] * 40)
        storks = lines(*["Storks clatter, for they have no voice."] * 40)
        added(as_alice, base, pages_pdf(swallows, storks), name="birds.pdf")

        best = found(as_alice, base, "voice of storks", top_k=1)[0]

        assert best["page"] == 2

    def test_the_encoding_is_found_and_told(self, as_alice: Client, base: str) -> None:
        body = upload(as_alice, base, STATUTE.encode("gb18030")).json()

        assert body["encoding"] == "gb18030"
        assert listed(as_alice, base)[0]["encoding"] == "gb18030"
        assert "不可抗力" in found(as_alice, base, "不可抗力")[0]["content"]

    def test_an_encoding_that_is_given_is_used(
        self, as_alice: Client, base: str
    ) -> None:
        content = "Größe".encode("latin-1")

        added(as_alice, base, content, encoding="latin-1")

        assert Chunk.objects.get().text == "Größe"

    def test_a_text_of_signs_without_words_can_be_stored(
        self, as_alice: Client, base: str
    ) -> None:
        added(as_alice, base, "!!! ??? ---")
        added(as_alice, base, BIRDS, name="birds.txt")

        assert found(as_alice, base, "swallows")[0]["doc_name"] == "birds.txt"

    @pytest.mark.parametrize(
        ("sent", "shown"),
        [
            ("../../etc/x.txt", "x.txt"),
            ("C:\\temp\\x.txt", "x.txt"),
            ("法律条款.txt", "法律条款.txt"),
            ("😀 <script>.txt", "😀 <script>.txt"),
            ("a\u202etxt.exe.txt", "atxt.exe.txt"),
            ("CON.txt", "CON.txt"),
        ],
    )
    def test_a_name_is_a_text_to_show_and_nothing_else(
        self, as_alice: Client, base: str, sent: str, shown: str
    ) -> None:
        added(as_alice, base, name=sent)

        assert listed(as_alice, base)[0]["doc_name"] == shown

    @pytest.mark.parametrize(
        "name",
        [
            *[b"a\x00b.txt", b"a\rb.txt", b"a\nb.txt", b"a\r\nX: y\r\n\r\n.txt"],
            *[
                b"\xff\xfe.txt",
                b"/etc/passwd",
                b"..",
                b"\\",
                b" ",
                b"a.txt/.",
                b"%2e%2e",
            ],
            *[b"a" * 4096 + b".txt", b"&#0;.txt", b"&lt;script&gt;.txt", b"CON", b"."],
        ],
    )
    def test_a_hostile_name_is_made_harmless_or_refused(
        self, as_alice: Client, base: str, name: bytes
    ) -> None:
        with connected(as_alice) as connection:
            connection.sendall(as_sent(as_alice, base, BIRDS.encode(), name=name))
            response = answer_on(connection)

        assert response.status_code in {200, 400}
        for shown in (document["doc_name"] for document in listed(as_alice, base)):
            assert shown.isprintable()
            assert shown == Path(shown).name
            assert len(shown) <= 255

    def test_two_documents_may_have_one_name(self, as_alice: Client, base: str) -> None:
        added(as_alice, base, "One.", name="a.txt")
        added(as_alice, base, "Two.", name="a.txt")

        assert [shown["doc_name"] for shown in listed(as_alice, base)] == ["a.txt"] * 2

    def test_what_no_database_stores_is_left_out(
        self, as_alice: Client, base: str
    ) -> None:
        stork = ("The stork\0 has no voice. " + BIRDS).encode()

        added(as_alice, base, stork)
        added(as_alice, base, stork.decode().encode("utf-16"))
        added(as_alice, base, pages_pdf(lines("The swift\0 flies.")), name="a.pdf")

        texts = "".join(Chunk.objects.values_list("text", flat=True))
        assert texts.count("The stork has no voice.") == 2
        assert "The swift flies." in texts

    def test_half_a_character_is_refused(self, as_alice: Client, base: str) -> None:
        torn = ("Storks \ud800. " + BIRDS).encode("utf-16-le", "surrogatepass")
        word = raw_docx(body(paragraph("Storks &#xD800;.")))

        is_refused(upload(as_alice, base, torn), 400, "unsupported_type")
        refused = upload(as_alice, base, word, name="a.docx")
        is_refused(refused, 400, "unreadable_document")

    def test_a_name_has_as_many_characters_as_a_file_system_allows(
        self, as_alice: Client, base: str
    ) -> None:
        name = "长" * 251 + ".txt"
        added(as_alice, base, name=name)

        assert listed(as_alice, base)[0]["doc_name"] == name
        is_refused(upload(as_alice, base, name="长" * 999 + ".txt"), 400, "invalid")

    def test_no_file_is_named_by_it_nor_by_what_stands_behind_its_dot(
        self, as_alice: Client, base: str
    ) -> None:
        # Too large for memory, with more bytes than the name of a file may have.
        large = b"Storks." + b" " * 3_000_000

        refused = upload(as_alice, base, large, name="a." + "长" * 100)

        is_refused(refused, 400, "unsupported_type")
        added(as_alice, base, large, name="租.txt")
        assert listed(as_alice, base)[0]["doc_name"] == "租.txt"


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("a.txt", b"", "empty_document"),
            ("a.txt", b" \n\t ", "empty_document"),
            ("a.txt", b"a\x00b\x01\x02" * 9, "unsupported_type"),
            ("a.exe", b"MZ", "unsupported_type"),
            ("a", b"text", "unsupported_type"),
            ("a.pdf", b"text", "unsupported_type"),
            ("a.docx", b"PK\x03\x04broken", "unreadable_document"),
        ],
    )
    def test_a_document_that_cannot_be_read_is_a_400(
        self, as_alice: Client, base: str, name: str, content: bytes, code: str
    ) -> None:
        response = upload(as_alice, base, content, name=name)

        is_refused(response, 400, code)
        assert not Document.objects.exists()

    def test_an_encoding_nobody_knows_is_a_400(
        self, as_alice: Client, base: str
    ) -> None:
        response = upload(as_alice, base, encoding="klingon")

        is_refused(response, 400, "unknown_encoding")
        assert not Document.objects.exists()

    @pytest.mark.parametrize("kb_id", [x for x in NO_UUIDS if isinstance(x, str)])
    def test_an_id_that_is_no_uuid_is_a_400(self, as_alice: Client, kb_id: str) -> None:
        is_refused(upload(as_alice, kb_id), 400, "invalid")

    def test_an_unknown_base_is_a_404(self, as_alice: Client) -> None:
        is_refused(upload(as_alice, str(uuid.uuid4())), 404, "not_found")

    def test_without_a_file_it_is_a_400(self, as_alice: Client, base: str) -> None:
        path, boundary = "/api/rag/doc/upload", "x"
        form = f'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n{base}\r\n'
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        for fields in (["kb_id"], ["kb_id", "file"], []):
            body = "".join(form % field for field in fields) + "--x--\r\n"
            response = as_alice.post(path, content=body.encode(), headers=headers)

            is_refused(response, 400, "invalid")

    def test_without_a_base_it_is_a_400(self, as_alice: Client) -> None:
        response = as_alice.post("/api/rag/doc/upload", files={"file": ("a.txt", b"x")})

        is_refused(response, 400, "invalid")

    @pytest.mark.parametrize(
        "content_type",
        [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=x; charset=zlib",
            "multipart/form-data; boundary=x; charset=nonsense",
        ],
    )
    def test_a_form_that_is_none_is_a_400(
        self, as_alice: Client, content_type: str
    ) -> None:
        form = b'--x\r\nContent-Disposition: form-data; name="kb_id"\r\n\r\nx\r\n--x--'

        response = as_alice.post(
            "/api/rag/doc/upload",
            content=form,
            headers={"Content-Type": content_type},
        )

        is_refused(response, 400, "invalid")


class TestLimits:
    def test_a_document_over_the_limit_is_a_413(
        self, as_alice: Client, base: str, settings: Any
    ) -> None:
        rag = replace(settings.CONFIG.rag, max_upload_mb=1)
        settings.CONFIG = replace(settings.CONFIG, rag=rag)

        response = upload(as_alice, base, b"x" * ((1 << 20) + 1))

        is_refused(response, 413, "too_large")
        assert not Document.objects.exists()

    def test_a_body_that_is_declared_too_large_is_not_read(
        self, server: Served, as_alice: Client
    ) -> None:
        host, port = server.base_url.removeprefix("http://").split(":")
        head = (
            f"POST /api/rag/doc/upload HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: {as_alice.headers['Authorization']}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {200 << 20}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            client.sendall(head.encode())
            answer = HTTPResponse(client)
            answer.begin()

            assert answer.status == 413
            assert json.load(answer)["code"] == "too_large"

    def test_a_document_too_many_is_a_413(
        self, as_alice: Client, base: str, settings: Any
    ) -> None:
        limited(settings, documents=2)
        added(as_alice, base, "One.")
        added(as_alice, make_base(as_alice), "One.")

        refused = upload(as_alice, base, "Two.")
        is_refused(refused, 413, "quota_exceeded", limit="documents", allowed=2)
        assert upload(as_alice, base, "One.").json()["duplicate"] is True

    def test_a_deleted_and_a_failed_one_make_room(
        self, as_alice: Client, base: str, settings: Any
    ) -> None:
        limited(settings, documents=1)
        document = added(as_alice, base, "One.")
        as_alice.post("/api/rag/doc/delete", json={"kb_id": base, "doc_id": document})
        unready(base, Document.Status.FAILED)

        assert upload(as_alice, base, "Two.").status_code == 200

    def test_ten_at_once_are_no_more_than_allowed(
        self, as_alice: Client, base: str, settings: Any
    ) -> None:
        limited(settings, documents=3)

        with ThreadPoolExecutor(10) as pool:
            sent = [pool.submit(upload, as_alice, base, f"No {n}.") for n in range(10)]
            statuses = sorted(future.result().status_code for future in sent)

        assert statuses == [200] * 3 + [413] * 7
        assert Document.objects.count() == 3

    def test_bytes_too_many_are_a_413(
        self, as_alice: Client, base: str, settings: Any
    ) -> None:
        limited(settings, document_mb=1)
        added(as_alice, base, "word " * 120_000)

        response = upload(as_alice, base, "other " * 120_000)

        is_refused(response, 413, "quota_exceeded", limit="document_mb", allowed=1)
        assert upload(as_alice, base, "A little.").status_code == 200

    def test_what_others_keep_does_not_count(
        self, as_alice: Client, as_mallory: Client, base: str, settings: Any
    ) -> None:
        limited(settings, documents=1)
        added(as_mallory, make_base(as_mallory))

        assert upload(as_alice, base).status_code == 200


class TestTheSameDocumentAgain:
    def test_it_is_told_and_nothing_is_embedded(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        first = upload(as_alice, remote_base).json()
        embedded = len(embeddings.requests)

        again = upload(as_alice, remote_base, name="other name.txt").json()

        assert again["doc_id"] == first["doc_id"]
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert (again["chunks"], again["encoding"]) == (4, "utf-8")
        assert again["message"] == first["message"]
        assert len(embeddings.requests) == embedded
        assert Chunk.objects.count() == 4

    def test_in_another_base_it_is_another(self, as_alice: Client, base: str) -> None:
        other = make_base(as_alice)

        assert added(as_alice, base) != added(as_alice, other)

    def test_ten_at_once_are_one(
        self, as_alice: Client, remote_base: str, embeddings: Embeddings
    ) -> None:
        with ThreadPoolExecutor(10) as pool:
            sent = [pool.submit(upload, as_alice, remote_base) for _ in range(10)]
            answers = [future.result() for future in sent]

        assert [a.status_code for a in answers] == [200] * 10
        assert len({a.json()["doc_id"] for a in answers}) == 1
        assert sorted(a.json()["duplicate"] for a in answers) == [False] + [True] * 9
        assert Document.objects.count() == 1
        assert Chunk.objects.count() == 4
        assert len(embeddings.texts) == 4


def unready(base: str, status: str) -> Document:
    """A document that is not ready; its row alone."""
    return Document.objects.create(
        knowledge_base_id=base,
        name="unready.txt",
        type="txt",
        sha256=uuid.uuid4().hex * 2,
        embedding_model="local-ngram",
        status=status,
        created_at=timezone.now(),
        lease_until=timezone.now() + timedelta(minutes=5),
    )


class TestList:
    def test_it_shows_what_can_be_found(self, as_alice: Client, base: str) -> None:
        first = added(as_alice, base, name="合同协议.txt")
        second = added(as_alice, base, BIRDS, name="birds.md")
        added(as_alice, make_base(as_alice), name="elsewhere.txt")
        unready(base, Document.Status.PROCESSING)
        unready(base, Document.Status.FAILED)

        body = as_alice.get("/api/rag/doc/list", params={"kb_id": base}).json()

        assert list(body) == ["success", "docs", "message"]
        assert (body["success"], body["message"]) == (True, "文档列表获取成功")
        seeds = ("doc_id", "kb_id", "doc_name", "file_type")
        assert [tuple(doc[key] for key in seeds) for doc in body["docs"]] == [
            (first, base, "合同协议.txt", "txt"),
            (second, base, "birds.md", "md"),
        ]
        assert body["docs"][0]["chunks"] == 4
        assert isinstance(body["docs"][0]["created_time"], int)

    def test_it_is_empty_at_first(self, as_alice: Client, base: str) -> None:
        assert listed(as_alice, base) == []


class TestDelete:
    def test_it_is_no_longer_found_at_once(self, as_alice: Client, base: str) -> None:
        document = added(as_alice, base)
        added(as_alice, base, BIRDS, name="birds.txt")
        assert found(as_alice, base, "不可抗力")[0]["doc_id"] == document

        response = as_alice.post(
            "/api/rag/doc/delete", json={"kb_id": base, "doc_id": document}
        )

        assert response.status_code == 200
        assert response.json() == {"success": True, "message": "文档删除成功"}
        names = {p["doc_name"] for p in found(as_alice, base, "不可抗力")}
        assert names <= {"birds.txt"}
        assert [doc["doc_name"] for doc in listed(as_alice, base)] == ["birds.txt"]
        assert not Chunk.objects.filter(document=uuid.UUID(document)).exists()

    def test_the_second_time_it_does_not_exist(
        self, as_alice: Client, base: str
    ) -> None:
        body = {"kb_id": base, "doc_id": added(as_alice, base)}
        as_alice.post("/api/rag/doc/delete", json=body)

        again = as_alice.post("/api/rag/doc/delete", json=body)

        is_refused(again, 404, "not_found")

    def test_it_can_be_added_again(self, as_alice: Client, base: str) -> None:
        body = {"kb_id": base, "doc_id": added(as_alice, base)}
        as_alice.post("/api/rag/doc/delete", json=body)

        assert upload(as_alice, base).json()["duplicate"] is False

    def test_under_another_base_it_does_not_exist(
        self, as_alice: Client, base: str
    ) -> None:
        document, other = added(as_alice, base), make_base(as_alice)

        response = as_alice.post(
            "/api/rag/doc/delete", json={"kb_id": other, "doc_id": document}
        )

        is_refused(response, 404, "not_found")
        assert Document.objects.filter(pk=document).exists()

    @pytest.mark.parametrize("doc_id", NO_UUIDS, ids=lambda doc_id: repr(doc_id)[:20])
    def test_an_id_that_is_no_uuid_is_a_400(
        self, as_alice: Client, base: str, doc_id: Any
    ) -> None:
        response = as_alice.post(
            "/api/rag/doc/delete", json={"kb_id": base, "doc_id": doc_id}
        )

        is_refused(response, 400, "invalid")


def test_ids_are_told_as_uuids_with_dashes(as_alice: Client, base: str) -> None:
    form = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

    assert re.fullmatch(form, base)
    assert re.fullmatch(form, added(as_alice, base))
