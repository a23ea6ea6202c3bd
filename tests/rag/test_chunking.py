"""Chunks: where they end, and what holds for any text."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from rag.chunking import Chunk, chunked
from rag.extracted import Extracted, Heading
from rag.extraction.markdown import headings_of
from rag.sentences import Measured, Sizes

SMALL = Sizes(cjk=20, latin=50, overlap_percent=15)
SENTENCE = "一二三四五六七八九。"


def chunks(text: str, *, sizes: Sizes = SMALL, **known: object) -> list[Chunk]:
    document = Extracted(text=text, **known)  # type: ignore[arg-type]
    return list(chunked(document, sizes=sizes))


def texts(text: str, *, sizes: Sizes = SMALL, **known: object) -> list[str]:
    return [text[c.start : c.end] for c in chunks(text, sizes=sizes, **known)]


# Text that is often near a border: signs, long words, marks, both kinds of script.
SIGNS = ["\n", "\n\n", "。", "！", "; ", ". ", "...", " ", "\u3000", "，", "”", "# "]
WORDS = ["中", "文字", "第三条", "第一章 总则", "\n第十条 ", "a", "word", "e\u0301"]
PIECES = st.sampled_from([*SIGNS, *WORDS, "\U0001f469\u200d\U0001f467", "\U00020000"])
ANY_TEXT = st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=300).map("".join))
ANY_SIZES = st.builds(
    Sizes,
    cjk=st.integers(1, 60),
    latin=st.integers(1, 150),
    overlap_percent=st.integers(0, 50),
)


class TestForAnyText:
    @settings(max_examples=200, deadline=None)
    @given(text=ANY_TEXT, sizes=ANY_SIZES)
    def test_all_that_is_not_blank_is_in_a_chunk(self, text: str, sizes: Sizes) -> None:
        covered = {
            at for c in chunks(text, sizes=sizes) for at in range(c.start, c.end)
        }

        assert all(c.isspace() for at, c in enumerate(text) if at not in covered)

    @settings(max_examples=200, deadline=None)
    @given(text=ANY_TEXT, sizes=ANY_SIZES)
    def test_chunks_are_in_order_bounded_and_stripped(
        self, text: str, sizes: Sizes
    ) -> None:
        found = chunks(text, sizes=sizes)
        measured = Measured(text, sizes)

        for chunk in found:
            part = text[chunk.start : chunk.end]
            assert part
            assert part == part.strip()
            one_character = max(sizes.cjk, sizes.latin)
            limit = max(measured.limit, one_character)
            assert measured.cost(chunk.start, chunk.end) <= limit
        for one, other in pairwise(found):
            assert one.start < other.start
            assert one.end < other.end

    @settings(max_examples=50, deadline=None)
    @given(text=ANY_TEXT)
    def test_the_same_text_is_cut_the_same_way(self, text: str) -> None:
        assert chunks(text) == chunks(text)

    @settings(max_examples=100, deadline=None)
    @given(text=ANY_TEXT, sizes=ANY_SIZES)
    def test_headings_in_markdown_are_lines_of_the_text(
        self, text: str, sizes: Sizes
    ) -> None:
        headings = tuple(headings_of(text))

        for heading in headings:
            line_start = text.rfind("\n", 0, heading.start) + 1
            assert not text[line_start : heading.start].strip()
        assert bool(text.strip()) == bool(chunks(text, sizes=sizes, headings=headings))

    @pytest.mark.parametrize(
        "unit", ["a", "中", "a b ", "。”", ". ", "\n", "第一条 x\n"]
    )
    def test_time_grows_with_length_alone(self, unit: str) -> None:
        def took(length: int) -> float:
            return min(once(length) for _ in range(3))

        def once(length: int) -> float:
            began = time.thread_time()
            chunks(unit * (length // len(unit)), sizes=Sizes())
            return time.thread_time() - began

        short = took(20_000)

        assert took(80_000) < max(short, 0.01) * 4 * 4


class TestBorders:
    def test_paragraphs_that_say_something_stand_alone(self) -> None:
        text = "一二三四五六七八九十一二。\n\n甲乙丙丁戊己。"

        assert texts(text) == text.split("\n\n")

    def test_short_paragraphs_share_a_chunk(self) -> None:
        assert texts("甲。\n\n乙。\n\n丙。") == ["甲。\n\n乙。\n\n丙。"]

    def test_lines_are_paragraphs_where_there_are_no_blank_lines(self) -> None:
        text = "一二三四五六七八九十一二。\n甲乙丙丁戊己。"

        assert texts(text) == text.split("\n")

    def test_lines_cut_at_a_width_are_not_paragraphs(self) -> None:
        line = "the quick brown fox jumps over the lazy dog and then some more"
        wrapped = "\n".join([line] * 8)

        found = texts(f"{wrapped}.\n\n{wrapped}.", sizes=Sizes(latin=600))

        assert found == [f"{wrapped}.", f"{wrapped}."]

    def test_a_long_paragraph_is_cut_between_sentences(self) -> None:
        found = texts(SENTENCE * 5, sizes=Sizes(cjk=22, overlap_percent=0))

        assert all(part.endswith("。") for part in found)
        assert "".join(found) == SENTENCE * 5

    def test_latin_sentences_end_before_a_space(self) -> None:
        text = (
            "Version 2.5 is out. It costs 3.50 now! Is it good? Yes; it is very good."
        )

        found = texts(text, sizes=Sizes(latin=40, overlap_percent=0))

        assert found == [
            "Version 2.5 is out. It costs 3.50 now!",
            "Is it good? Yes; it is very good.",
        ]

    def test_a_cut_paragraph_repeats_its_last_sentence(self) -> None:
        sentences = [f"第{n}句话在这里。" for n in "一二三四五六七八九"]

        found = chunks("".join(sentences), sizes=Sizes(cjk=30, overlap_percent=30))

        assert all(one.end > other.start for one, other in pairwise(found))
        assert all((c.start % 8, c.end % 8) == (0, 0) for c in found)

    def test_words_without_any_border_overlap_too(self) -> None:
        found = chunks("中" * 1000, sizes=Sizes())

        assert all(one.end - other.start == 60 for one, other in pairwise(found))

    def test_mixed_text_is_weighed_by_its_share(self) -> None:
        half = "中" * 199 + "a" * 549

        assert len(chunks(half, sizes=Sizes())) == 1
        assert len(chunks(half + "中a中", sizes=Sizes())) == 2

    def test_a_letter_keeps_its_marks(self) -> None:
        found = texts("e\u0301" * 200, sizes=Sizes(latin=51, overlap_percent=0))

        assert all(part.startswith("e") for part in found)


LAW = """中华人民共和国民法典

目录
第一编　总则
第一章　基本规定
第二章　自然人

第一编　总则
第一章　基本规定
第一条　为了保护民事主体的合法权益，制定本法。
第二条　民法调整平等主体之间的关系。
前款不适用于第十条规定的情形。
第二章　自然人
第一节　民事权利能力
第十三条之一　自然人从出生时起具有民事权利能力。
"""


class TestStatutes:
    def test_an_article_is_a_chunk(self) -> None:
        found = texts(LAW, sizes=Sizes())

        assert [part.splitlines()[-1] for part in found[2:]] == [
            "第一条　为了保护民事主体的合法权益，制定本法。",
            "前款不适用于第十条规定的情形。",
            "第十三条之一　自然人从出生时起具有民事权利能力。",
        ]

    def test_it_stands_under_its_part_and_chapter(self) -> None:
        paths = [chunk.heading_path for chunk in chunks(LAW, sizes=Sizes())]

        assert paths[2:] == [
            ("第一编 总则", "第一章 基本规定"),
            ("第一编 总则", "第一章 基本规定"),
            ("第一编 总则", "第二章 自然人", "第一节 民事权利能力"),
        ]

    def test_a_table_of_contents_is_not_part_of_the_first_article(self) -> None:
        assert "目录" not in texts(LAW, sizes=Sizes())[2]

    def test_a_long_article_is_cut(self) -> None:
        found = texts("第一条 " + SENTENCE * 5 + "\n第二条 短。")

        assert len(found) > 2
        assert found[-1] == "第二条 短。"

    def test_a_sentence_about_an_article_begins_none(self) -> None:
        text = "依照下列规定办理。\n第三条的规定除外。"

        assert texts(text, sizes=Sizes()) == [text]


class TestHeadings:
    MARKDOWN = "# One\n\nIntro.\n\n## Two\n\n### Three\n\nBody.\n\n## Four\n\nEnd.\n"

    def test_a_chunk_begins_at_a_heading_and_knows_its_path(self) -> None:
        headings = tuple(headings_of(self.MARKDOWN))

        found = chunks(self.MARKDOWN, headings=headings)

        assert [
            (chunk.heading_path, self.MARKDOWN[chunk.start : chunk.end])
            for chunk in found
        ] == [
            (("One",), "# One\n\nIntro."),
            (("One", "Two", "Three"), "## Two\n\n### Three\n\nBody."),
            (("One", "Four"), "## Four\n\nEnd."),
        ]

    def test_underlined_ones_count_and_those_in_code_do_not(self) -> None:
        text = "---\na: b\n---\nTop\n===\n\n```\n# not\n```\n\nSub *x*\n---\n- a\n---\n"

        found = [(each.level, each.title) for each in headings_of(text)]

        assert found == [(1, "Top"), (2, "Sub *x")]

    def test_the_page_is_that_of_the_start(self) -> None:
        text = "甲乙丙丁戊己庚。\n一二三四五六七。\n"

        found = chunks(text, sizes=Sizes(cjk=10), pages=(0, 9, 18))

        assert [chunk.page for chunk in found] == [1, 2]

    def test_a_document_of_headings_alone_has_chunks(self) -> None:
        text = "# One\n# Two"
        headings = (
            Heading(start=0, level=1, title="One"),
            Heading(start=6, level=1, title="Two"),
        )

        assert texts(text, headings=headings) == [text]
