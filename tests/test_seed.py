"""
The API of llm-backend-api as its documentation gives it, under both servers.

Commands and bodies below are copied from there, not written for this test.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import fake_provider, served
from tests.fake_provider import FakeProvider, Script, refusal
from tests.patience import PATIENCE
from tests.rag.documents import simple_docx
from tests.rag.embeddings import Embeddings
from tests.served import ServeProcess

COMMANDS = {
    "register": r"""
curl -X POST http://localhost:8080/api/users/register \
-H "Content-Type: application/json" \
-d '{
    "username": "john_doe",
    "password": "SecureP@ssw0rd!"
}'
""",
    "login": r"""
curl -X POST http://localhost:8080/api/users/login \
-H "Content-Type: application/json" \
-d '{
    "username": "john_doe",
    "password": "SecureP@ssw0rd!"
}'
""",
    "create": r"""
curl -X POST http://localhost:8080/api/conversations/create \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN" \
-d '{
    "title": "My New Conversation",
    "model": "gpt-4o",
    "api_key": "your-api-key-here"
}'
""",
    "chat": r"""
curl -X POST http://localhost:8080/api/chat/329629 \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN" \
-d '{
    "message": "介绍一下RUST"
}'
""",
    "history": r"""
curl -X GET http://localhost:8080/api/conversations/history/329629 \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN"
""",
    "kb/create": r"""
curl -X POST http://localhost:8080/api/rag/kb/create \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN" \
-d '{
    "kb_name": "法律知识库",
    "embedding_model": "zhipu-embedding-3"
}'
""",
    "kb/list": r"""
curl -X GET http://localhost:8080/api/rag/kb/list \
-H "Authorization: Bearer YOUR_JWT_TOKEN"
""",
    "doc/upload": r"""
curl -X POST http://localhost:8080/api/rag/doc/upload \
-H "Authorization: Bearer YOUR_JWT_TOKEN" \
-F "kb_id=a1b2c3d4-5678-90ab-cdef-123456789abc" \
-F "file=@/path/to/your/document.docx"
""",
    "retrieve": r"""
curl -X POST http://localhost:8080/api/rag/retrieve \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN" \
-d '{
    "kb_id": "a1b2c3d4-5678-90ab-cdef-123456789abc",
    "query": "什么是不可抗力条款?",
    "top_k": 5
}'
""",
    "rag chat": r"""
curl -X POST http://localhost:8080/api/rag/chat \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN" \
-d '{
    "conversation_id": 329629,
    "kb_id": "a1b2c3d4-5678-90ab-cdef-123456789abc",
    "message": "什么是不可抗力条款?",
    "top_k": 3
}'
""",
    "list": r"""
curl -X GET http://localhost:8080/api/conversations/list \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN"
""",
    "delete": r"""
curl -X POST http://localhost:8080/api/conversations/del/329629 \
-H "Content-Type: application/json" \
-H "Authorization: Bearer YOUR_JWT_TOKEN"
""",
}

BODIES = {
    "register": """
    {
        "message": "User registered successfully"
    }
    """,
    "create": """
    {
        "conversation_id": 329629,
        "title": "My New Conversation",
        "model": "gpt-4o",
        "api_key": "your-api-key-here",
        "created_time": 1731851729
    }
    """,
    "history": """
    {
        "conversation_id": 329629,
        "title": "My New Conversation",
        "model": "gpt-4o",
        "messages": [
            {
                "role": "user",
                "content": "介绍一下RUST",
                "message_id": 1
            },
            {
                "role": "assistant",
                "content": "Rust 是一种系统编程语言,由 Graydon Hoare 设计...",
                "message_id": 2
            }
        ],
        "created_time": 1731851729
    }
    """,
    "list": """
    [
        {
            "conversation_id": 329629,
            "title": "My New Conversation",
            "created_time": 1731851729
        }
    ]
    """,
    "delete": """
    {
        "message": "Conversation deleted successfully"
    }
    """,
}
# Beside the fields documented for these, others may stand.
OPEN_BODIES = {
    "login": """
    {
        "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6..."
    }
    """,
    "kb/create": """
    {
        "success": true,
        "kb_id": "a1b2c3d4-5678-90ab-cdef-123456789abc",
        "message": "知识库创建成功,使用模型: zhipu-embedding-3"
    }
    """,
    "kb/list": """
    {
        "success": true,
        "kbs": [
            {
                "kb_id": "a1b2c3d4-5678-90ab-cdef-123456789abc",
                "kb_name": "法律知识库",
                "embedding_model": "zhipu-embedding-3"
            }
        ],
        "message": "知识库列表获取成功"
    }
    """,
    "doc/upload": """
    {
        "success": true,
        "doc_id": "d1e2f3g4-5678-90ab-cdef-123456789abc",
        "message": "文档上传处理成功,共分割并添加 2 个文本块"
    }
    """,
    "retrieve": """
    {
        "success": true,
        "results": [
            {
                "content": "不可抗力条款是指合同中约定的因不可预见...",
                "score": 0.85,
                "doc_id": "d1e2f3g4-5678-90ab-cdef-123456789abc",
                "doc_name": "document.docx"
            }
        ],
        "message": "检索成功"
    }
    """,
}
STATUSES = dict.fromkeys(COMMANDS, 200) | {"register": 201}
DOCUMENT = simple_docx(
    "第一条 不可抗力条款是指合同中约定的因不可预见、不可避免、不可克服的客观情况,"
    "免除当事人部分或全部责任的条款。",
    "第二条 租赁期限不得超过二十年。",
)

STREAM = """\
{"event":"message", "data":"R"}

{"event":"message", "data":"ust"}

{"event":"message", "data":" 是一种系统编程语言,由 Graydon Hoare 设计..."}

{"event":"done", "data":"Stream finished"}

{"event":"full_response", "data":"Rust 是一种系统编程语言,由 Graydon Hoare 设计..."}

"""
PIECES = ["R", "ust", " 是一种系统编程语言,由 Graydon Hoare 设计..."]
ANSWER = "".join(PIECES)


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


def arguments_of(command: str) -> list[str]:
    """What a shell would hand to curl."""
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert program == "curl"
    return arguments


def run(command: str) -> Answer:
    """A documented command, by curl where there is one."""
    arguments = arguments_of(command)
    return by_curl(arguments) if shutil.which("curl") else by_httpx(arguments)


def by_curl(arguments: list[str]) -> Answer:
    quiet = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "20"]
    done = subprocess.run(
        ["curl", *quiet, "--write-out", "%{http_code}", *arguments],
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode()
    return Answer(status=int(text[-3:]), text=text[:-3])


def by_httpx(arguments: list[str]) -> Answer:
    url = next(a for a in arguments if a.startswith("http"))
    given = list(itertools.pairwise(arguments))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    method = next(value for option, value in given if option == "-X")
    data = next((value for option, value in given if option == "-d"), "")
    form = dict(value.split("=", 1) for option, value in given if option == "-F")
    sent: dict[str, Any] = {"content": data.encode()}
    if "file" in form:
        path = Path(form.pop("file").removeprefix("@"))
        sent = {"data": form, "files": {"file": (path.name, path.read_bytes())}}
    with httpx2.Client(timeout=PATIENCE, trust_env=False, verify=False) as client:
        response = client.request(method, url, headers=headers, **sent)
    return Answer(status=response.status_code, text=response.text)


def like(documented: Any, real: Any) -> None:
    """The same keys in the same order, and values of the same kinds."""
    assert type(documented) is type(real)
    if isinstance(documented, dict):
        assert list(documented) == list(real)
        for name in documented:
            like(documented[name], real[name])
    elif isinstance(documented, list):
        assert len(documented) == len(real)
        for one, other in zip(documented, real, strict=True):
            like(one, other)


def holds(real: Any, documented: Any) -> None:
    """The documented keys in their order, of the same kinds; others may be between."""
    assert type(documented) is type(real)
    if isinstance(documented, dict):
        assert [name for name in real if name in documented] == list(documented)
        for name in documented:
            holds(real[name], documented[name])
    elif isinstance(documented, list):
        assert real
        for item in real:
            holds(item, documented[0])


def events_in(text: str) -> list[dict[str, str]]:
    """A stream as a client of llm-backend-api reads it: one JSON object a line."""
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider.running() as fake:
        yield fake


@pytest.fixture(autouse=True)
def as_new(provider: FakeProvider) -> Iterator[None]:
    provider.reset()
    yield
    provider.reset()


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def server(
    request: pytest.FixtureRequest,
    provider: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServeProcess]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    providers = served.fake_section(provider.base_url)
    embeds = {"zhipu-embedding-3": "embedding-3"}
    providers[0]["embedding_models"] = embeds
    options = ("--server", request.param)
    with served.serving(
        directory, *options, from_nothing=True, providers=providers
    ) as process:
        yield process


@pytest.fixture(scope="module")
def answers(server: ServeProcess, provider: FakeProvider) -> dict[str, Answer]:
    """What the documented commands answer, run in their order."""
    provider.enqueue(Script(pieces=PIECES, pause=0.05))
    provider.routes["/embeddings"] = Embeddings()
    document = server.directory / "document.docx"
    document.write_bytes(DOCUMENT)
    known = {
        "http://localhost:8080": server.base_url,
        "/path/to/your/document.docx": str(document),
    }
    answers = {}
    for name, command in COMMANDS.items():
        for documented, real in known.items():
            command = command.replace(documented, real)
        answers[name] = run(command)
        if name == "login":
            known["YOUR_JWT_TOKEN"] = answers[name].body["token"]
        if name == "create":
            known["329629"] = str(answers[name].body["conversation_id"])
        if name == "kb/create":
            made = answers[name].body["kb_id"]
            known["a1b2c3d4-5678-90ab-cdef-123456789abc"] = made
    return answers


numbers = itertools.count()


@pytest.fixture
def client(server: ServeProcess) -> Iterator[httpx2.Client]:
    """A user nobody else is."""
    with server.signed_in(f"user{next(numbers)}") as client:
        yield client


@pytest.fixture
def conversation(client: httpx2.Client) -> int:
    body = {"title": "Rust", "model": "gpt-4o"}
    return int(
        client.post("/api/conversations/create", json=body).json()["conversation_id"]
    )


class TestTheDocumentedCommands:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_they_answer_with_the_documented_status(
        self, name: str, answers: dict[str, Answer]
    ) -> None:
        assert answers[name].status == STATUSES[name], answers[name].text

    @pytest.mark.parametrize("name", BODIES)
    def test_they_answer_with_the_documented_body(
        self, name: str, answers: dict[str, Answer]
    ) -> None:
        documented, real = json.loads(BODIES[name]), answers[name].body

        like(documented, real)
        assert without_what_varies(real) == without_what_varies(documented)

    @pytest.mark.parametrize("name", OPEN_BODIES)
    def test_they_answer_with_what_is_documented_and_may_say_more(
        self, name: str, answers: dict[str, Answer]
    ) -> None:
        documented, real = json.loads(OPEN_BODIES[name]), answers[name].body

        holds(real, documented)
        for name in {"success", "message"} & set(documented):
            assert real[name] == documented[name]

    def test_the_document_is_found_and_its_name_told(
        self, answers: dict[str, Answer]
    ) -> None:
        best = answers["retrieve"].body["results"][0]

        assert "不可抗力条款" in best["content"]
        assert best["doc_id"] == answers["doc/upload"].body["doc_id"]
        assert best["doc_name"] == "document.docx"

    def test_a_chat_with_a_knowledge_base_is_a_stream_like_any_other(
        self, answers: dict[str, Answer]
    ) -> None:
        assert joined(answers["rag chat"].text) == [
            ("message", "Hello!"),
            ("done", "Stream finished"),
            ("full_response", "Hello!"),
        ]

    def test_the_token_is_a_jwt_of_the_documented_kind(
        self, answers: dict[str, Answer]
    ) -> None:
        token = answers["login"].body["token"]

        assert re.fullmatch(r"eyJhbGciOiJIUzI1NiIsInR5cCI6[\w-]+(\.[\w-]+){2}", token)

    def test_one_id_and_one_time_are_told_everywhere(
        self, answers: dict[str, Answer]
    ) -> None:
        created, listed = answers["create"].body, answers["list"].body[0]

        for name in ("conversation_id", "created_time"):
            assert created[name] == listed[name] == answers["history"].body[name]

    def test_the_stream_is_the_documented_one(self, answers: dict[str, Answer]) -> None:
        # Pieces that come at once may be sent as one, so they are compared joined.
        assert joined(answers["chat"].text) == joined(STREAM)

    def test_each_line_is_written_as_documented(
        self, answers: dict[str, Answer]
    ) -> None:
        lines = answers["chat"].text.split("\n")

        assert set(lines[1::2]) == {""}
        for line in lines[0:-1:2]:
            event = json.loads(line)
            data = json.dumps(event["data"], ensure_ascii=False)
            assert line == f'{{"event":"{event["event"]}", "data":{data}}}'

    def test_the_full_response_is_all_pieces_joined(
        self, answers: dict[str, Answer]
    ) -> None:
        events = events_in(answers["chat"].text)

        pieces = [e["data"] for e in events if e["event"] == "message"]
        assert events[-1] == {"event": "full_response", "data": "".join(pieces)}
        assert "".join(pieces) == ANSWER


def without_what_varies(body: Any) -> Any:
    if isinstance(body, list):
        return [without_what_varies(item) for item in body]
    if not isinstance(body, dict):
        return body
    varies = {"conversation_id", "created_time", "token"}
    return {k: without_what_varies(v) for k, v in body.items() if k not in varies}


def joined(stream: str) -> list[tuple[str, str]]:
    """(event, data) of a stream, runs of `message` made one."""
    events = [(event["event"], event["data"]) for event in events_in(stream)]
    runs = itertools.groupby(events, key=lambda event: event[0])
    return [(name, "".join(data for _, data in run)) for name, run in runs]


class TestTheDocumentedStatuses:
    def test_a_taken_name_and_bad_input_are_400(self, server: ServeProcess) -> None:
        who = {"username": f"user{next(numbers)}", "password": "correct horse battery"}
        with server.client() as client:
            register = "/api/users/register"
            assert client.post(register, json=who).status_code == 201
            assert client.post(register, json=who).status_code == 400
            assert client.post(register, json={}).status_code == 400
            assert client.post(register, content=b"{").status_code == 400

    def test_wrong_credentials_are_401(self, server: ServeProcess) -> None:
        who = {"username": "nobody", "password": "wrong"}
        with server.client() as client:
            assert client.post("/api/users/login", json=who).status_code == 401

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/api/conversations/create"),
            ("GET", "/api/conversations/list"),
            ("GET", "/api/conversations/history/329629"),
            ("POST", "/api/conversations/del/329629"),
            ("POST", "/api/chat/329629"),
            ("POST", "/api/rag/kb/create"),
            ("GET", "/api/rag/kb/list"),
            ("POST", "/api/rag/kb/delete"),
            ("POST", "/api/rag/doc/upload"),
            ("GET", "/api/rag/doc/list"),
            ("POST", "/api/rag/doc/delete"),
            ("POST", "/api/rag/retrieve"),
            ("POST", "/api/rag/chat"),
            ("GET", "/api/rag/models"),
        ],
    )
    @pytest.mark.parametrize("token", ["", "Bearer", "Bearer x.y.z", "Basic YTpi"])
    def test_a_missing_or_invalid_token_is_401(
        self, method: str, path: str, token: str, server: ServeProcess
    ) -> None:
        headers = {"Authorization": token} if token else {}
        with server.client(headers=headers) as client:
            response = client.request(method, path, json={"message": "Hi"})

        assert response.status_code == 401

    @pytest.mark.parametrize("body", [b"", b"{", b"null", b"{}", b'{"title": "Hi"}'])
    def test_an_invalid_body_is_400(self, body: bytes, client: httpx2.Client) -> None:
        response = client.post("/api/conversations/create", content=body)

        assert response.status_code == 400

    def test_an_unknown_conversation_is_404(self, client: httpx2.Client) -> None:
        ask = {"message": "Hi"}

        assert client.get("/api/conversations/history/329629").status_code == 404
        assert client.post("/api/conversations/del/329629").status_code == 404
        assert client.post("/api/chat/329629", json=ask).status_code == 404

    def test_an_invalid_conversation_id_is_400(self, client: httpx2.Client) -> None:
        assert client.post("/api/chat/abc", json={"message": "Hi"}).status_code == 400


class TestStreaming:
    def test_a_piece_is_there_while_the_model_still_thinks(
        self, client: httpx2.Client, conversation: int, provider: FakeProvider
    ) -> None:
        script = provider.default = Script(pieces=["Hel", "lo"], stall_after=1)

        with client.stream(
            "POST", f"/api/chat/{conversation}", json={"message": "Hi"}
        ) as response:
            lines = response.iter_lines()
            first = json.loads(next(lines))
            script.release.set()
            rest = [json.loads(line) for line in lines if line]

        assert first == {"event": "message", "data": "Hel"}
        assert [event["data"] for event in rest] == ["lo", "Stream finished", "Hello"]

    @pytest.mark.parametrize(
        "text", ['He said "hi"\n\n{"event":"forged"}', "\\ \t \u2028 \r\n", "😀" * 50]
    )
    def test_whatever_the_answer_is_each_line_is_one_object(
        self,
        text: str,
        client: httpx2.Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        provider.default = Script(pieces=[text[:5], text[5:]])

        response = client.post(f"/api/chat/{conversation}", json={"message": "Hi"})

        assert joined(response.text) == [
            ("message", text),
            ("done", "Stream finished"),
            ("full_response", text),
        ]

    def test_an_answer_that_breaks_off_ends_with_an_error_and_the_next_one_works(
        self, client: httpx2.Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.enqueue(Script(pieces=["Hel", "lo"], cut="rst", cut_after=2))
        path, ask = f"/api/chat/{conversation}", {"message": "Hi"}

        broken = client.post(path, json=ask)
        whole = client.post(path, json=ask)

        names = [event["event"] for event in events_in(broken.text)]
        assert names[-1] == "error"
        assert "done" not in names
        assert joined(whole.text)[-1] == ("full_response", "Hello!")

    def test_a_provider_that_refuses_is_a_status(
        self, client: httpx2.Client, conversation: int, provider: FakeProvider
    ) -> None:
        provider.default = refusal(401)

        response = client.post(f"/api/chat/{conversation}", json={"message": "Hi"})

        assert response.status_code == 502

    def test_the_answer_to_a_reader_that_left_is_in_the_history(
        self,
        server: ServeProcess,
        client: httpx2.Client,
        conversation: int,
        provider: FakeProvider,
    ) -> None:
        script = provider.default = Script(pieces=["Hel", "lo"], stall_after=1)

        with client.stream(
            "POST", f"/api/chat/{conversation}", json={"message": "Hi"}
        ) as response:
            next(response.iter_lines())
        script.release.set()

        def answered() -> bool:
            path = f"/api/conversations/history/{conversation}"
            return "status" not in client.get(path).json()["messages"][-1]

        server.wait_for(answered)
        history = client.get(f"/api/conversations/history/{conversation}").json()
        assert history["messages"][-1]["content"] == "Hello"

    def test_standard_events_on_request(
        self, client: httpx2.Client, conversation: int
    ) -> None:
        response = client.post(
            f"/api/chat/{conversation}",
            json={"message": "Hi"},
            headers={"Accept": "text/event-stream"},
        )

        assert response.text.startswith(
            "retry: 1000\nid: 2-0-0\nevent: started\ndata: {"
        )
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


class TestTheReadersOfThisTest:
    def test_both_ways_to_run_a_command_agree(self, server: ServeProcess) -> None:
        command = COMMANDS["login"].replace("http://localhost:8080", server.base_url)
        arguments = arguments_of(command.replace("SecureP@ssw0rd!", "wrong"))
        if not shutil.which("curl"):
            pytest.skip("curl is not installed")

        assert by_curl(arguments).status == by_httpx(arguments).status == 401
