"""Parsing in a process of its own: what comes back, and what cannot happen."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import IO

import numpy as np
import psutil
import pytest

from llmbackend.errors import (
    EmptyDocument,
    EncryptedDocument,
    Invalid,
    NoText,
    ServerRestarting,
    UnknownEncoding,
    UnreadableDocument,
    UnsupportedType,
)
from rag.confinement import Limits
from rag.ngrams import DIMENSION, passage_vectors
from rag.parsed import MAX_TEXT_BYTES, read_result
from rag.parsing import Parsed, Sizes, parse
from rag.terms import pack_terms
from tests.chat.eventually import eventually
from tests.patience import SOON
from tests.rag.documents import (
    OLE,
    body,
    lines,
    pages_pdf,
    raw_docx,
    simple_docx,
)
from tests.rag.hostile import HOSTILE, MIB

CHINESE = "为了保护民事主体的合法权益，调整民事关系，维护社会和经济秩序，制定本法。"


def parsed(data: bytes, name: str = "a.txt", **options: object) -> Parsed:
    options = {"sizes": Sizes(), **options}
    return parse(io.BytesIO(data), name=name, **options)  # type: ignore[arg-type]


def children() -> list[psutil.Process]:
    """The processes that parse for this one; it may have others, such as a browser."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return [child for child in found if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "rag.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def childrens_seconds() -> float:
    """What processes took of the processor that this one started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def flat_memory() -> Iterator[None]:
    """This process may not grow by more than 20 MiB; a child's peak is bounded."""
    before = psutil.Process().memory_info().rss
    peaks = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for child in children():
                try:
                    peaks.append(child.memory_info().rss)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    done.set()
    watcher.join()
    assert psutil.Process().memory_info().rss - before < 20 * MIB
    assert max(peaks) < 512 * MIB


class TestResults:
    def test_a_text_comes_back_with_its_chunks(self) -> None:
        text = f"{CHINESE * 5}\n\n{CHINESE * 5}\n"

        found = parsed(text.encode("gbk"), "法.TXT")

        assert (found.type, found.text, found.encoding) == ("txt", text, "gb18030")
        assert [text[c.start : c.end] for c in found.chunks] == [CHINESE * 5] * 2
        assert all(c.terms == pack_terms(CHINESE * 5) for c in found.chunks)
        assert all(len(c.vector) == 0 for c in found.chunks)

    def test_vectors_are_made_when_asked_for(self) -> None:
        found = parsed(CHINESE.encode(), ngrams=True)

        assert found.chunks[0].vector.shape == (DIMENSION,)
        assert np.array_equal(found.chunks[0].vector, passage_vectors([CHINESE])[0])

    def test_markdown_and_docx_have_headings_and_pdf_has_pages(self) -> None:
        markdown = parsed("# 法\n\n## 章\n\n文。".encode(), "a.md")
        word = parsed(simple_docx("Hello"), "a.docx")
        pages = parsed(pages_pdf(lines("One."), lines("Two.")), "a.pdf")

        assert markdown.chunks[0].heading_path == ("法", "章")
        assert (word.type, word.text, word.encoding) == ("docx", "Hello", "")
        assert pages.chunks[0].page == 1

    def test_vectors_take_as_little_room_as_their_terms(self) -> None:
        words = " ".join(f"word{n}" for n in range(30_000))
        sizes = Sizes(latin=300, overlap_percent=0)
        most = Limits(file_bytes=25 * len(words))

        found = parsed(words.encode(), sizes=sizes, ngrams=True, limits=most)

        assert len(found.chunks) > 800
        assert len(found.chunks) * DIMENSION * 4 > most.file_bytes
        last = found.chunks[-1]
        text = found.text[last.start : last.end]
        assert np.array_equal(last.vector, passage_vectors([text])[0])

    def test_chunks_are_read_in_any_order(self) -> None:
        text = "\n\n".join(f"{n} {CHINESE * 6}" for n in range(50))

        chunks = parsed(text.encode()).chunks

        assert len(chunks) == 50
        assert chunks[-1].end == len(text)
        assert [chunk.start for chunk in chunks[10:12]] == [
            chunks[10].start,
            chunks[11].start,
        ]
        with pytest.raises(IndexError):
            chunks[50]

    def test_an_uploaded_file_is_read_from_its_start(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(CHINESE.encode())

            found = parse(file, name="a.txt", sizes=Sizes())

        assert found.text == CHINESE

    def test_the_sizes_and_the_encoding_are_obeyed(self) -> None:
        sizes = Sizes(cjk=10, latin=28, overlap_percent=0)

        found = parsed("café. Some words here.".encode("cp1252"), encoding="latin-1")
        small = parsed(CHINESE.encode(), sizes=sizes)

        assert found.encoding == "iso8859-1"
        assert len(small.chunks) > 3

    def test_two_thousand_chunks_take_seconds(self) -> None:
        text = "\n\n".join(f"{n} {CHINESE * 9}" for n in range(2_000))

        began = childrens_seconds()
        chunks = parsed(text.encode(), ngrams=True).chunks

        assert len(chunks) == 2_000
        assert childrens_seconds() - began < 20


class TestErrors:
    @pytest.mark.parametrize(
        ("data", "name", "error"),
        [
            (b"", "a.txt", EmptyDocument),
            (b" \n", "a.md", EmptyDocument),
            (b"x", "a.docx", UnreadableDocument),
            (b"x", "a.pdf", UnsupportedType),
            (b"x", "a.exe", UnsupportedType),
            (b"\0\1\2\3" * 50, "a.txt", UnsupportedType),
            (b"\xb9\xfa", "a.txt", UnknownEncoding),
            (pages_pdf(b""), "a.pdf", NoText),
            (OLE + "EncryptedPackage".encode("utf-16-le"), "a.docx", EncryptedDocument),
        ],
    )
    def test_each_has_its_class(
        self, data: bytes, name: str, error: type[Invalid]
    ) -> None:
        with pytest.raises(error):
            parsed(data, name)

    def test_the_sentence_comes_through(self) -> None:
        with pytest.raises(UnknownEncoding, match="no encoding of this name"):
            parsed(b"x", encoding="nope" * 1000)

    def test_whatever_a_parser_raises_is_unreadable(self) -> None:
        data = pages_pdf(lines("Hello"))

        with pytest.raises(UnreadableDocument):
            parsed(data[: len(data) // 2], "a.pdf")


class TestHostileFiles:
    @pytest.mark.parametrize("case", HOSTILE)
    def test_is_a_400_and_the_memory_does_not_move(
        self, case: str, request: pytest.FixtureRequest
    ) -> None:
        name, _ = HOSTILE[case]
        with tempfile.TemporaryFile() as file:
            write_elsewhere(file, case)
            request.getfixturevalue("flat_memory")
            began = childrens_seconds()

            with pytest.raises(Invalid):
                parse(file, name=name, sizes=Sizes())

            assert childrens_seconds() - began < 15
        assert not children()

    def test_a_hundred_thousand_paragraphs_are_read(self) -> None:
        numbers = Random(1).sample(range(10**9), 100_000)  # noqa: S311
        paragraphs = [f"<w:p><w:r><w:t>{n}</w:t></w:r></w:p>" for n in numbers]

        found = parsed(raw_docx(body("".join(paragraphs))), "a.docx")

        assert found.text.split() == [str(n) for n in numbers]

    def test_one_that_never_ends_is_killed(self) -> None:
        endless = pages_pdf(b"BT /F1 12 Tf " + b"(a) Tj T* " * 2_000_000 + b"ET")
        began = childrens_seconds()

        with pytest.raises(UnreadableDocument):
            parsed(endless, "a.pdf", limits=Limits(cpu_seconds=1))

        assert childrens_seconds() - began < 10
        assert not children()

    def test_one_that_is_told_to_end_with_the_server_is_not_said_to_be_damaged(
        self,
    ) -> None:
        def told() -> None:
            for child in children():
                child.terminate()

        endless = pages_pdf(b"BT /F1 12 Tf " + b"(a) Tj T* " * 2_000_000 + b"ET")

        with pytest.raises(ServerRestarting):
            parsed(endless, "a.pdf", waiting=told)

    def test_one_that_takes_too_much_memory_is_refused(self) -> None:
        with pytest.raises(UnreadableDocument):
            parsed(CHINESE.encode() * 150_000, limits=Limits(memory_bytes=150 * MIB))

    def test_one_that_writes_too_much_is_refused(self) -> None:
        with pytest.raises(UnreadableDocument):
            parsed(CHINESE.encode() * 5_000, limits=Limits(file_bytes=100_000))


def write_elsewhere(file: IO[bytes], case: str) -> None:
    """Make a hostile file without this process growing for it."""
    code = (
        "import sys; from tests.rag.hostile import HOSTILE;"
        f"sys.stdout.buffer.write(HOSTILE[{case!r}][1]())"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], stdout=file, cwd=root, check=True)


class TestTheProcess:
    def test_it_is_given_nothing_of_the_servers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        seen: list[dict[str, str]] = []

        def look() -> bool:
            seen.extend(child.environ() for child in children())
            return bool(seen)

        while_parsing(look)

        assert seen
        assert "sk-secret" not in str(seen)

    def test_it_gives_way_and_cannot_reach_the_network(self) -> None:
        ours = Path("/proc/self/ns/net").readlink()
        allowed = subprocess.run(["unshare", "-rn", "true"], check=False)
        can_leave = allowed.returncode == 0

        def is_confined() -> bool:
            [child] = children()
            theirs = Path(f"/proc/{child.pid}/ns/net").readlink()
            return child.nice() >= 10 and (ours != theirs) == can_leave

        while_parsing(is_confined)

    def test_what_waiting_raises_ends_it(self) -> None:
        seen: list[float] = []

        def look() -> bool:
            seen.extend([time.monotonic()] if children() else [])
            return bool(seen)

        while_parsing(look)

        assert time.monotonic() - seen[0] < 3
        assert not children()

    def test_it_ends_with_a_server_that_is_killed(self) -> None:
        with tempfile.NamedTemporaryFile(suffix=".txt") as file:
            file.write(SLOW)
            file.flush()
            code = (
                "from rag.parsing import parse, Sizes;"
                f"parse(open({file.name!r}, 'rb'), name='a.txt', sizes=Sizes())"
            )
            root = Path(__file__).parents[2]
            server = subprocess.Popen([sys.executable, "-c", code], cwd=root)
            parsing = until(lambda: psutil.Process(server.pid).children())
            server.kill()
            server.wait()

            _, alive = psutil.wait_procs(parsing, timeout=SOON)

        assert not alive

    def test_two_work_at_once_and_the_third_waits(self) -> None:
        most, end = [0], threading.Event()

        def look() -> None:
            while not end.wait(0.02):
                most.append(len(children()))

        def run() -> None:
            parsed(CHINESE.encode() * 10_000)

        threads = [threading.Thread(target=run) for _ in range(4)]
        watcher = threading.Thread(target=look)
        for thread in [watcher, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        end.set()
        watcher.join()

        assert max(most) == 2

    def test_no_descriptor_stays_open(self) -> None:
        before = descriptors()

        for _ in range(3):
            parsed(b"x")
            with pytest.raises(EmptyDocument):
                parsed(b"")

        assert descriptors() <= before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


SLOW = b"a b. " * (3 * MIB)


class Gone(Exception):
    pass


def while_parsing(look: Callable[[], object]) -> None:
    """Call `look` while a document is being parsed, until it has seen enough."""

    def waiting() -> None:
        if look():
            raise Gone

    with pytest.raises(Gone):
        parsed(SLOW, waiting=waiting)


def until(found: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    assert eventually(found)
    return found()


GOOD = b'{"type": "txt", "encoding": "utf-8", "text_bytes": 4}\ntext'
ROW = (
    b'{"start": 0, "end": 4, "page": null, "heading_path": [],'
    b' "terms_bytes": 5, "dimension": 3, "places": 1}\n'
)


class TestReadingAResult:
    def read(self, content: bytes) -> Parsed:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            return read_result(file)

    def test_a_good_one(self) -> None:
        vector = b"\1\0" + b"\0\0\x80\x3f"

        chunk = self.read(GOOD + ROW + b"terms" + vector).chunks[0]

        assert (chunk.terms, chunk.vector.tolist()) == (b"terms", [0, 1, 0])

    def test_a_place_that_is_none_is_read_as_another(self) -> None:
        vector = b"\7\0" + b"\0\0\x80\x3f"

        chunk = self.read(GOOD + ROW + b"terms" + vector).chunks[0]

        assert chunk.vector.tolist() == [0, 0, 1]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"[]\n",
            b"{}\n",
            GOOD.replace(b"4", b"-4"),
            GOOD.replace(b"4", b"true"),
            GOOD.replace(b"4", str(MAX_TEXT_BYTES + 1).encode()),
            GOOD.replace(b"text", b"te\xff\xff"),
            GOOD + ROW,
            GOOD + ROW + b"terms" + b"\0\0\0\0\x80\x3f\0",
            GOOD + ROW.replace(b'"start": 0', b'"start": 4') + b"terms123456",
            GOOD + ROW.replace(b'"end": 4', b'"end": 5') + b"terms123456",
            GOOD + ROW.replace(b"null", b'"one"') + b"terms123456",
            GOOD + ROW.replace(b"[]", b"[1]") + b"terms123456",
            GOOD + ROW.replace(b"3", b"0") + b"terms123456",
            GOOD + ROW.replace(b"3", b"65537") + b"terms123456",
            GOOD + b"x" * 200_000,
        ],
    )
    def test_a_bad_one_is_refused(self, content: bytes) -> None:
        with pytest.raises((ValueError, KeyError, TypeError)):
            self.read(content)
