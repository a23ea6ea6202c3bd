"""chat.completion: the quick way through a chunk says what the general way says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from chat.completion import Completion, Delta

odd = st.none() | st.integers(-1, 2) | st.text(max_size=3) | st.booleans()
texts = st.text(st.characters(codec="utf-8"), max_size=5)
deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": texts | odd | st.lists(st.just({"text": "part"}), max_size=2),
        "reasoning_content": texts | odd,
        "reasoning": texts | odd,
        "tool_calls": st.just([{"id": "x"}]),
    },
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": odd,
        "delta": deltas | odd,
        "message": deltas,
        "finish_reason": st.sampled_from(["stop", "sensitive", "abort"]) | odd,
        "logprobs": st.none(),
    },
)
usages = st.fixed_dictionaries({"prompt_tokens": odd, "completion_tokens": odd})
chunks = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices | odd, max_size=3) | odd,
        "usage": usages | odd,
        "error": odd | st.just({"message": "overloaded"}),
        "model": texts,
    },
)


@given(st.lists(chunks, min_size=1, max_size=4))
@example([{"choices": [{"delta": {"content": "a"}}, {"index": 0, "delta": None}]}])
@example([{"choices": [{"delta": {}, "message": {"content": "a"}}]}])
@example([{"choices": [{"index": 1, "delta": {"content": "a"}}]}])
@example([{"choices": [{"delta": {"content": "a"}, "finish_reason": "abort"}]}])
def test_both_ways_agree(sent: list[dict[str, Any]]) -> None:
    # NaN is JSON to Python's decoder alone, so that nothing goes the quick way.
    general = [{**chunk, "nan": float("nan")} for chunk in sent]

    assert heard(sent) == heard(general)


def heard(sent: list[dict[str, Any]]) -> list[Any]:
    return heard_of([f"data: {json.dumps(chunk)}\n\n".encode() for chunk in sent])


def heard_of(reads: list[bytes], *, quickly: bool = False) -> list[Any]:
    completion = Completion(max_characters=1000, max_line=10_000)
    told: list[Any] = []
    for data in reads:
        if completion.ended:
            break
        if quickly and (text := completion.text_of(data)):
            told.append((text, ""))
        else:
            told.append(said(completion.feed(data)))
    told.append(completion.events)
    told += [said(completion.close()), completion.finish_reason, completion.complaint]
    try:
        told.append(completion.outcome())
    except Exception as exc:  # noqa: BLE001  Which one it is must agree, too.
        told.append(type(exc))
    return told


def said(delta: Delta | None) -> tuple[str, str] | None:
    return None if delta is None else (delta.text, delta.reasoning)


def event(text: str, *, word: str = "content", ascii_alone: bool = False) -> bytes:
    delta = {"index": 0, "delta": {word: text}, "finish_reason": None}
    chunk = {"id": "c", "choices": [delta], "usage": None, "model": "m"}
    return f"data: {json.dumps(chunk, ensure_ascii=ascii_alone)}\n\n".encode()


written = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\0\n\u2028😀'))
reads = st.lists(
    written.map(event)
    | st.sampled_from(
        [
            *(event(half, ascii_alone=True) for half in ("\ud83d", "\ude00", "c")),
            event("thought", word="reasoning"),
            event("one") + event("two"),
            event("long" * 300),
            event("cut")[:-1],
            event("cut")[:40],
            b"\n",
            b": alive\n\n",
            b"data: [DONE]\n\n",
            event("").replace(b'"content": ""', b'"content": "\xff"'),
            event("").replace(b'"content": ""', b'"content": "\1"'),
            event("").replace(b'"content": ""', b'"content": "a", "content": "b"'),
            event("").replace(b'"finish_reason": null', b'"finish_reason": "stop"'),
        ]
    ),
    max_size=8,
)


@given(reads)
@example([event("c"), event("c"), event("ccc")])
@example([event("null"), event("index"), event("0")])
@example([event("one"), event("half \ud83d", ascii_alone=True), event("two")])
@example([event("m"), event("m").replace(b'"model": "m"', b'"model": "k"')])
@example([event("one"), event("").replace(b'"content": ""', b'"content": "\1"')])
@example([event("one"), event("cut")[:-1], event("two"), event("three")])
@example([event("a" * 600), event("b" * 500)])
def test_what_differs_in_its_text_alone_is_heard_as_it_was(reads: list[bytes]) -> None:
    assert heard_of(reads, quickly=True) == heard_of(reads)


def test_what_differs_in_its_text_alone_is_not_decoded_again() -> None:
    completion = Completion(max_characters=1000, max_line=10_000)
    completion.feed(event("Hel"))

    assert [completion.text_of(event(text)) for text in ("lo ", "世界")] == [
        "lo ",
        "世界",
    ]
    assert completion.text_of(event('"')) == ""


@pytest.mark.parametrize(("before", "after"), [(b"data: ", b"\n\n"), (b"", b"")])
def test_what_nobody_reads_need_not_be_text(before: bytes, after: bytes) -> None:
    completion = Completion(max_characters=1000, max_line=10_000)
    chunk = (
        b'{"id":"\xff","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}'
    )

    heard = completion.feed(before + chunk + after) or completion.close()

    assert heard == Delta("a", "")
    assert completion.outcome().finish_reason == "stop"
