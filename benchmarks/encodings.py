"""
How often the encoding of a text is found: python -m benchmarks.encodings DATA

DATA is a folder with xquad.zh.json and xquad.en.json. Every paragraph of at least 60
characters is encoded in every encoding that can write it, decoded without a hint, and
is right when the same text comes back. What is not in DATA, Traditional Chinese,
Japanese, Korean and Western European text, comes from Django's own translations,
several sentences to a paragraph; Traditional Chinese from the paragraphs of xquad.zh
too, if the package opencc is there to convert them.
"""

from __future__ import annotations

import codecs
import gettext
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import django

from llmbackend.errors import LLMBackendError
from rag.encodings import decode

AT_LEAST = 60
UNICODE = (
    "utf-8",
    "utf-8-sig",
    "utf-16-le with BOM",
    "utf-16-be with BOM",
    "utf-16-le",
    "utf-16-be",
)
CHINESE = ("gbk", "gb18030")
TRADITIONAL = ("big5", "cp950", "gbk", "gb18030")
JAPANESE = ("shift_jis", "cp932", "euc_jp")
KOREAN = ("euc_kr", "cp949")
WESTERN = ("latin-1", "cp1252")


def encoded(text: str, encoding: str) -> bytes | None:
    """`text` in `encoding`; None if it cannot be written in it, or is plain ASCII."""
    name, _, mark = encoding.partition(" ")
    bom = b"" if not mark else "\ufeff".encode(name)
    try:
        data = bom + text.encode(name)
    except UnicodeEncodeError:
        return None
    return None if data.isascii() and encoding in WESTERN else data


def share_right(texts: list[str], encoding: str) -> tuple[int, int, int]:
    """How many came back as they were, were refused, and were tried."""
    right = refused = tried = 0
    for text in texts:
        data = encoded(text, encoding)
        if data is None:
            continue
        tried += 1
        try:
            right += decode(data).text == text
        except LLMBackendError:
            refused += 1
    return right, refused, tried


def paragraphs(file: Path) -> list[str]:
    data = json.loads(file.read_bytes())["data"]
    texts = [each["context"] for article in data for each in article["paragraphs"]]
    # Some begin with a byte order mark, which a decoder takes for just that.
    return [text.lstrip("\ufeff") for text in texts if len(text) >= AT_LEAST]


def translations(locale: str) -> list[str]:
    """Sentences of Django's interface in one language, joined to paragraphs."""
    found: list[str] = []
    for file in sorted(Path(django.__file__).parent.rglob(f"locale/{locale}/*/*.mo")):
        with file.open("rb") as opened:
            catalog = gettext.GNUTranslations(opened)
        messages: dict[object, str] = vars(catalog)["_catalog"]
        paragraph = ""
        for text in (value for key, value in messages.items() if key and value):
            if "%" in text or "<" in text or "{" in text:
                continue  # More mark-up than language.
            paragraph += text
            if len(paragraph) >= AT_LEAST:
                found.append(paragraph)
                paragraph = ""
    return found


def in_traditional(texts: list[str]) -> list[str]:
    converter = import_module("opencc").OpenCC("s2twp")
    return [converter.convert(text) for text in texts]


def sets(data: Path) -> Iterator[tuple[str, list[str], tuple[str, ...]]]:
    chinese = paragraphs(data / "xquad.zh.json")
    yield "xquad zh", chinese, UNICODE + CHINESE + ("big5", "shift_jis")
    yield "xquad en", paragraphs(data / "xquad.en.json"), UNICODE + WESTERN
    if find_spec("opencc"):
        yield "xquad zh, Traditional", in_traditional(chinese), UNICODE + TRADITIONAL
    yield "Django zh_Hans", translations("zh_Hans"), UNICODE[4:] + CHINESE
    yield "Django zh_Hant", translations("zh_Hant"), UNICODE[4:] + TRADITIONAL
    yield "Django ja", translations("ja"), UNICODE[4:] + JAPANESE
    yield "Django ko", translations("ko"), UNICODE[4:] + KOREAN
    for locale in ("fr", "de", "es", "pt"):
        yield f"Django {locale}", translations(locale), UNICODE[4:] + WESTERN


def main() -> None:
    print(f"{'text':24}{'encoding':22}{'right':>8}{'refused':>9}{'of':>6}")
    for name, texts, encodings in sets(Path(sys.argv[1])):
        for encoding in encodings:
            codecs.lookup(encoding.partition(" ")[0])
            right, refused, tried = share_right(texts, encoding)
            share = f"{right / tried:.1%}" if tried else "-"
            print(f"{name:24}{encoding:22}{share:>8}{refused:>9}{tried:>6}")


if __name__ == "__main__":
    main()
