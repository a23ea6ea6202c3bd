"""`local-quote`: answers that are quotations, for those who have no model yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rag.quoting import Quote

PURPOSE = (
    "local-quote has no model behind it: it answers questions to a knowledge base by "
    "quoting from it. (local-quote 不是模型:它只摘录知识库中的原文来回答问题。)"
)
_CHINESE = range(0x3400, 0xA000)


def quoted(question: str, quotes: Sequence[Quote]) -> Iterator[str]:
    """The pieces of an answer that says it is a quotation, and of what."""
    chinese = any(ord(character) in _CHINESE for character in question)
    if not quotes:
        yield (
            "知识库中没有找到相关内容。"
            if chinese
            else "Nothing about this was found in the knowledge base."
        )
        return
    yield (
        "以下是资料原文摘录,并非模型生成的回答:"
        if chinese
        else ("Quoted from the documents, not written by a model:")
    )
    for quote in quotes:
        yield f"\n\n> {quote.text} [{quote.source}]"
