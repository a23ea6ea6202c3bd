"""Text out of files: what is kept, in which order, and what is refused."""

from __future__ import annotations

import io
import struct
import zipfile
from random import Random

import docx
import pypdf
import pytest
from docx.oxml import OxmlElement
from docx.oxml.ns import qn

from llmbackend.errors import (
    EmptyDocument,
    EncryptedDocument,
    NoText,
    UnreadableDocument,
    UnsupportedType,
)
from rag.extracted import Extracted
from rag.extraction.extract import extract
from rag.extraction.types import type_of
from tests.rag.documents import (
    OLE,
    RELATIONS,
    WORD,
    body,
    lines,
    pages_pdf,
    paragraph,
    pdf,
    raw_docx,
    saved,
    simple_docx,
    stream,
)


def text_of(data: bytes, *, type: str = "docx") -> str:  # noqa: A002
    return extract(data, type=type).text


def titles(found: Extracted) -> list[tuple[int, str]]:
    return [(each.level, each.title) for each in found.headings]


class TestTypes:
    @pytest.mark.parametrize(
        ("name", "file_type"),
        [
            ("a.txt", "txt"),
            ("README.MD", "md"),
            ("a.b.markdown", "md"),
            ("法律.docx", "docx"),
            ("../../x.pdf", "pdf"),
            ("C:\\x.pdf", "pdf"),
            ("a\0b\r\n\u202e<script>😀.txt", "txt"),
            ("CON.txt", "txt"),
            ("x" * 4096 + ".txt", "txt"),
            (".md", "md"),
        ],
    )
    def test_the_extension_names_it(self, name: str, file_type: str) -> None:
        assert type_of(name) == file_type

    @pytest.mark.parametrize(
        "name", ["", "txt", "a.doc", "a.exe", "a.txt.gz", "a.txt/b", "a.", "a.docx\0"]
    )
    def test_others_are_refused(self, name: str) -> None:
        with pytest.raises(UnsupportedType):
            type_of(name)

    @pytest.mark.parametrize(
        ("data", "file_type"),
        [
            (pages_pdf(lines("Hello")), "txt"),
            (pages_pdf(lines("Hello")), "docx"),
            (simple_docx("Hello"), "txt"),
            (simple_docx("Hello"), "pdf"),
            (b"plain text", "pdf"),
            (b"plain text", "docx"),
            (b"{\\rtf1 plain text}", "txt"),
            (b"\x89PNG\r\n\x1a\n" + bytes(50), "txt"),
            (b"some text" + simple_docx("Hello"), "txt"),
            (b"%PDF-1.4\n" + simple_docx("Hello"), "docx"),
            (pages_pdf(lines("Hello")) + simple_docx("Hello"), "pdf"),
        ],
    )
    def test_content_that_is_not_what_the_extension_says(
        self, data: bytes, file_type: str
    ) -> None:
        with pytest.raises((UnsupportedType, UnreadableDocument)):
            extract(data, type=file_type)

    def test_a_document_that_is_also_a_pdf(self) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", pages_pdf(lines("Hello")))

        with pytest.raises(UnsupportedType):
            extract(file.getvalue(), type="docx")

    def test_another_office_file(self) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("hello.txt", "Hello")

        with pytest.raises(UnsupportedType):
            extract(file.getvalue(), type="docx")


class TestText:
    @pytest.mark.parametrize(
        "data", [b"", b" \n\t\r\n", "\u3000\n".encode(), b"\0" * 5]
    )
    def test_blank_files(self, data: bytes) -> None:
        with pytest.raises((EmptyDocument, UnsupportedType)):
            extract(data, type="txt")

    def test_line_ends_become_one(self) -> None:
        data = "a\r\nb\rc\x0bd\u2028e\x07f".encode()

        assert text_of(data, type="txt") == "a\nb\nc\nd\nef"

    def test_words_are_not_parted_by_what_cannot_be_seen(self) -> None:
        data = "infor\u00admation 不可\u200b抗\u2060力\n\ufeff# 总则\nمی\u200cخواهم"

        found = extract(data.encode(), type="md")

        assert found.text == "information 不可抗力\n# 总则\nمی\u200cخواهم"
        assert titles(found) == [(1, "总则")]

    def test_markdown_keeps_its_text_and_knows_its_headings(self) -> None:
        source = "# 总则\n\n正文。\n\n## 第一节 ##\n\n更多。\n"

        found = extract(source.encode("gbk"), type="md")

        assert found.text == source
        assert found.encoding == "gb18030"
        assert titles(found) == [(1, "总则"), (2, "第一节")]

    @pytest.mark.parametrize("item", ["-", "1.", "10)", "* -"])
    def test_markdown_has_no_headings_in_code_that_is_an_item(self, item: str) -> None:
        room = " " * len(item)
        source = (
            f"# Start\n\n{item} ```sh\n{room} # not one\n\n{room} ls\n{room} ```\n\n"
            "# Next\n"
        )

        assert titles(extract(source.encode(), type="md")) == [
            (1, "Start"),
            (1, "Next"),
        ]

    def test_markdown_has_no_headings_in_its_code(self) -> None:
        source = (
            "# C#\n\n```make run``` starts it.\n\n## Code\n\n```text\n```sh\n"
            "# not one\n```\n\n## F# and C# ##\n"
        )

        found = extract(source.encode(), type="md")

        assert titles(found) == [(1, "C#"), (2, "Code"), (2, "F# and C#")]

    def test_the_senders_encoding_is_used(self) -> None:
        found = extract("café".encode("cp1252"), type="txt", encoding="cp1252")

        assert (found.text, found.encoding) == ("café", "cp1252")


def footnote(document: object, run: object, text: str) -> None:
    """Refer to a footnote, in a document that `with_footnotes` completes."""
    reference = OxmlElement("w:footnoteReference")
    reference.set(qn("w:id"), text)
    run._r.append(reference)  # type: ignore[attr-defined]


def numbered(content: str, *, levels: str, numbers: str = "") -> bytes:
    """A document with one list of some levels, by the number 7 if none are given."""
    numbering = (
        f'<w:numbering xmlns:w="{WORD}"><w:abstractNum w:abstractNumId="1">{levels}'
        f"</w:abstractNum>{numbers or num(7)}</w:numbering>"
    )
    relations = (
        '<Relationships><Relationship Type="x/numbering" Target="numbering.xml"/>'
        "</Relationships>"
    )
    parts = {"numbering.xml": numbering, "_rels/document.xml.rels": relations}
    return raw_docx(body(content), **parts)


def level(number: int, text: str, more: str = "", *, start: int = 1) -> str:
    return (
        f'<w:lvl w:ilvl="{number}"><w:start w:val="{start}"/>'
        f'<w:numFmt w:val="chineseCounting"/>{more}<w:lvlText w:val="{text}"/></w:lvl>'
    )


def num(number: int, override: str = "") -> str:
    return (
        f'<w:num w:numId="{number}"><w:abstractNumId w:val="1"/>'
        f'<w:lvlOverride w:ilvl="0">{override}</w:lvlOverride></w:num>'
    )


def item(text: str, number: int = 7, *, level: int = 0, more: str = "") -> str:
    properties = f'<w:ilvl w:val="{level}"/><w:numId w:val="{number}"/>'
    return paragraph(text, f"<w:numPr>{properties}</w:numPr>{more}")


class TestDocx:
    def test_everything_is_there_in_the_order_it_is_read(self) -> None:
        document = docx.Document()
        document.add_heading("民法典", 0)
        document.add_heading("总则", 1)
        document.add_paragraph("第一段。")
        document.add_paragraph("苹果", style="List Bullet")
        document.add_paragraph("梨", style="List Bullet")
        table = document.add_table(2, 2)
        for cell, text in zip(
            (cell for row in table.rows for cell in row.cells), "甲乙丙丁", strict=True
        ):
            cell.text = text
        document.add_heading("分则", 2)
        document.add_paragraph("最后。")
        document.sections[0].header.paragraphs[0].text = "页眉"
        document.sections[0].footer.paragraphs[0].text = "页脚"

        found = extract(saved(document), type="docx")

        assert found.text == (
            "页眉\n\n民法典\n\n总则\n\n第一段。\n\n• 苹果\n• 梨\n甲 | 乙\n丙 | 丁\n\n"
            "分则\n\n最后。\n\n页脚"
        )
        assert titles(found) == [(0, "民法典"), (1, "总则"), (2, "分则")]
        assert [found.text[each.start :][:2] for each in found.headings] == [
            "民法",
            "总则",
            "分则",
        ]

    def test_notes_follow_the_paragraph_they_belong_to(self) -> None:
        reference = '<w:r><w:footnoteReference w:id="2"/></w:r>'
        document = body(
            f"<w:p><w:r><w:t>甲</w:t></w:r>{reference}</w:p>" + paragraph("乙")
        )
        notes = (
            f'<w:footnotes xmlns:w="{WORD}"><w:footnote w:type="separator" w:id="0">'
            f'{paragraph("---")}</w:footnote><w:footnote w:id="2">'
            f"{paragraph('注释')}</w:footnote></w:footnotes>"
        )
        relations = (
            '<Relationships><Relationship Type="x/footnotes" Target="footnotes.xml"/>'
            "</Relationships>"
        )

        data = raw_docx(
            document,
            **{"footnotes.xml": notes, "_rels/document.xml.rels": relations},
        )

        assert text_of(data) == "甲\n\n注释\n\n乙"

    def test_numbers_that_word_makes_are_part_of_the_text(self) -> None:
        data = numbered(item("甲") * 3, levels=level(0, "第%1条", start=9))

        assert text_of(data) == "第九条 甲\n第十条 甲\n第十一条 甲"

    def test_articles_are_counted_on_through_the_chapters(self) -> None:
        chapter, article = item("章"), item("条", level=1)
        levels = level(0, "第%1章") + level(1, "第%2条", '<w:lvlRestart w:val="0"/>')

        data = numbered(chapter + article * 2 + chapter + article, levels=levels)

        assert text_of(data) == "第一章 章\n第一条 条\n第二条 条\n第二章 章\n第三条 条"

    def test_a_section_may_show_the_number_of_its_chapter_in_decimal(self) -> None:
        levels = level(0, "第%1章") + level(1, "%1.%2", "<w:isLgl/>")
        levels += level(2, "%1.%3", '<w:isLgl w:val="0"/>')

        data = numbered(
            (item("章") + item("节", level=1)) * 2 + item("款", level=2), levels=levels
        )

        assert text_of(data) == "第一章 章\n1.1 节\n第二章 章\n2.1 节\n二.一 款"

    @pytest.mark.parametrize(
        ("form", "shown"),
        [
            ("chineseLegalSimplified", ["玖", "壹拾", "壹拾壹"]),
            ("ideographTraditional", ["壬", "癸", "11"]),
            ("decimalEnclosedParen", ["⑼", "⑽", "⑾"]),
            ("decimalFullWidth", ["９", "１０", "１１"]),
        ],
    )
    def test_there_are_many_kinds_of_numbers(self, form: str, shown: list[str]) -> None:
        levels = level(0, "%1", start=9).replace("chineseCounting", form)

        assert text_of(numbered(item("x") * 3, levels=levels)) == "\n".join(
            f"{number} x" for number in shown
        )

    def test_a_list_may_be_one_of_a_style(self) -> None:
        styled = '<w:styleLink w:val="Articles"/>' + level(0, "第%1条")
        used = (
            '<w:abstractNum w:abstractNumId="2"><w:numStyleLink w:val="Articles"/>'
            '</w:abstractNum><w:num w:numId="8"><w:abstractNumId w:val="2"/></w:num>'
        )

        data = numbered(item("甲", 8) + item("乙", 8), levels=styled, numbers=used)

        assert text_of(data) == "第一条 甲\n第二条 乙"

    def test_numbers_of_one_list_are_counted_on(self) -> None:
        numbers = num(7) + num(8) + num(9, '<w:startOverride w:val="1"/>')

        data = numbered(
            item("甲", 7) + item("乙", 8) + item("丙", 9) * 2 + item("丁", 7),
            levels=level(0, "第%1条"),
            numbers=numbers,
        )

        assert text_of(data) == (
            "第一条 甲\n第二条 乙\n第一条 丙\n第二条 丙\n第三条 丁"
        )

    def test_a_number_may_have_a_level_of_its_own(self) -> None:
        data = numbered(
            item("甲"), levels=level(0, "%1."), numbers=num(7, level(0, "第%1款"))
        )

        assert text_of(data) == "第一款 甲"

    def test_what_is_empty_is_numbered_and_what_was_deleted_is_not(self) -> None:
        deleted = item("", more="<w:rPr><w:del/></w:rPr>").replace(
            "<w:t></w:t>", "<w:delText>deleted</w:delText>"
        )

        data = numbered(
            item("甲") + item("") + deleted + item("乙"), levels=level(0, "第%1条")
        )

        assert text_of(data) == "第一条 甲\n第三条 乙"

    def test_a_paragraph_is_what_it_was_changed_to(self) -> None:
        document = docx.Document()
        text, heading = document.add_paragraph("正文"), document.add_heading("总则", 1)
        for changed, before in (text, "Heading1"), (heading, "ListBullet"):
            change = OxmlElement("w:pPrChange")
            change.append(OxmlElement("w:pPr"))
            change[0].append(OxmlElement("w:pStyle"))
            change[0][0].set(qn("w:val"), before)
            changed._p.get_or_add_pPr().append(change)

        found = extract(saved(document), type="docx")

        assert found.text == "正文\n\n总则"
        assert titles(found) == [(1, "总则")]

    def test_what_was_deleted_or_moved_away_is_not(self) -> None:
        run = "<w:r><w:t>moved</w:t></w:r>"
        content = (
            "<w:p><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
            f"<w:moveFrom>{run}</w:moveFrom><w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
            "<w:r><w:instrText>PAGE</w:instrText><w:tab/><w:t>text</w:t></w:r></w:p>"
        )

        assert text_of(raw_docx(body(content))) == "new\ttext"

    def test_no_sign_note_formula_or_box_is_left_of_what_was_deleted(self) -> None:
        note = f'<w:footnotes xmlns:w="{WORD}"><w:footnote w:id="2">'
        note += f"{paragraph('beside')}</w:footnote></w:footnotes>"
        relations = (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
            f'relationships"><Relationship Id="r1" Type="{RELATIONS}/footnotes"'
            ' Target="footnotes.xml"/></Relationships>'
        )
        box = f"<w:pict><w:txbxContent>{paragraph('boxed')}</w:txbxContent></w:pict>"
        content = (
            "<w:p><w:r><w:t>all</w:t></w:r><w:del><w:r><w:noBreakHyphen/><w:br/>"
            f'<w:footnoteReference w:id="2"/>{box}</w:r></w:del><m:oMath xmlns:m='
            '"http://schemas.openxmlformats.org/officeDocument/2006/math"><w:del><m:r>'
            "<m:t>x</m:t></m:r></w:del><m:r><m:t>y</m:t></m:r></m:oMath></w:p>"
        )

        data = raw_docx(
            body(content),
            **{"footnotes.xml": note, "_rels/document.xml.rels": relations},
        )

        assert text_of(data) == "ally"

    def test_what_a_field_in_a_field_is_computed_from_is_not(self) -> None:
        def char(kind: str) -> str:
            return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'

        def result(text: str) -> str:
            return f"{char('separate')}<w:r><w:t>{text}</w:t></w:r>{char('end')}"

        def asked(text: str) -> str:
            return f"<w:r><w:instrText>{text}</w:instrText></w:r>"

        inner = char("begin") + asked("PAGE") + result("3")
        outer = char("begin") + asked("=") + inner + asked("-1") + result("2") + inner
        never_ended = char("begin") + asked("PAGE")
        content = (
            f"<w:p><w:r><w:t>p. </w:t></w:r>{outer}<w:r><w:t> of 9</w:t></w:r></w:p>"
            f"<w:p>{char('end')}{never_ended}<w:r><w:t>read</w:t></w:r>{never_ended}</w:p>"
            f"{paragraph('on')}"
        )

        assert text_of(raw_docx(body(content))) == "p. 23 of 9\n\nread\n\non"

    @pytest.mark.parametrize(
        ("font", "codes", "read"),
        [
            ("Wingdings", ["F0FC", "F0FE", "00A8", "F06C", "F0E0"], "✓☑☐●→"),
            ("Wingdings 2", ["F050", "F052", "F0A3"], "✓☑☐"),
            ("Wingdings 3", ["F075"], "▶"),
            ("Symbol", ["F061", "F057", "F0B1", "F0B3", "F0AE", "F0E5"], "αΩ±≥→∑"),
            ("Arial", ["00B1", "2022"], "±•"),
            # Of what is not known, nothing.
            ("Wingdings", ["F0FF", "1234", "", "x", "-1", "FFFFFFFFF"], ""),
            ("Webdings", ["F061", "D800", "0000", "110000"], ""),
        ],
    )
    def test_signs_of_symbol_fonts(
        self, font: str, codes: list[str], read: str
    ) -> None:
        signs = "".join(f'<w:sym w:font="{font}" w:char="{code}"/>' for code in codes)
        content = f"<w:p><w:r><w:t>(</w:t>{signs}<w:t>)</w:t></w:r></w:p>"

        assert text_of(raw_docx(body(content))) == f"({read})"

    def test_a_header_is_set_apart_where_it_says_so(self) -> None:
        content = (
            "<w:p><w:r><w:t>租赁合同</w:t></w:r>"
            '<w:r><w:ptab w:alignment="right"/><w:t>2026</w:t></w:r></w:p>'
        )

        assert text_of(raw_docx(body(content))) == "租赁合同\t2026"

    def test_a_frame_of_one_cell_holds_paragraphs(self) -> None:
        inner = paragraph("甲") + paragraph("乙")
        content = f"<w:tbl><w:tr><w:tc>{inner}</w:tc></w:tr></w:tbl>"

        assert text_of(raw_docx(body(content))) == "甲\n\n乙"

    def test_a_long_form_of_empty_cells_is_read(self) -> None:
        cell = (
            '<w:tc><w:tcPr><w:tcW w:w="1728" w:type="dxa"/></w:tcPr>'
            '<w:p w:rsidR="00AB12CD" w:rsidRDefault="00AB12CD"><w:pPr><w:rPr>'
            '<w:rFonts w:hint="eastAsia"/><w:sz w:val="21"/></w:rPr></w:pPr></w:p>'
            "</w:tc>"
        )
        rows = [
            f"<w:tr><w:tc>{paragraph(f'No. {n}')}</w:tc>{cell * 20}</w:tr>"
            for n in range(3_000)
        ]

        found = text_of(raw_docx(body(f"<w:tbl>{''.join(rows)}</w:tbl>")))

        assert [line.split(" |")[0] for line in found.splitlines()] == [
            f"No. {n}" for n in range(3_000)
        ]

    def test_strict_documents_are_read(self) -> None:
        strict = "http://purl.oclc.org/ooxml/wordprocessingml/main"

        formula = (
            '<w:p><m:oMath xmlns:m="http://purl.oclc.org/ooxml/officeDocument/math">'
            "<m:r><m:t>x = 2</m:t></m:r></m:oMath></w:p>"
        )

        data = raw_docx(body(paragraph("甲") + formula).replace(WORD, strict))

        assert text_of(data) == "甲\n\nx = 2"

    def test_a_document_without_text(self) -> None:
        with pytest.raises(EmptyDocument):
            extract(simple_docx("", " "), type="docx")

    def test_a_document_of_pictures(self) -> None:
        with pytest.raises(NoText):
            extract(raw_docx(body(""), **{"media/a.png": b"x"}), type="docx")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data[:-30],
            lambda data: data.replace(b"word/document.xml", b"word/dokument.xml"),
            lambda data: b"PK\x03\x04" + b"x" * 500,
            lambda data: data[:60] + b"\xff" * 20 + data[80:],
        ],
    )
    def test_damaged_files(self, damage: object) -> None:
        data = damage(simple_docx("Hello"))  # type: ignore[operator]

        with pytest.raises((UnreadableDocument, UnsupportedType)):
            extract(data, type="docx")

    def test_a_password(self) -> None:
        ole = OLE + bytes(500)

        with pytest.raises(EncryptedDocument):
            extract(ole + "EncryptedPackage".encode("utf-16-le"), type="docx")
        with pytest.raises(UnsupportedType):
            extract(ole + "WordDocument".encode("utf-16-le"), type="docx")


class TestHostileXml:
    @pytest.mark.parametrize(
        "doctype",
        [
            '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
            '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
            '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/"> %p;]>',
            '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>',
            "<!DOCTYPE x>",
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_a_document_type_is_refused(self, doctype: str, encoding: str) -> None:
        document = body(paragraph("&e;" if "ENTITY e" in doctype else "x"))

        with pytest.raises(UnreadableDocument):
            extract(raw_docx((doctype + document).encode(encoding)), type="docx")

    def test_a_template_elsewhere_is_not_fetched(self) -> None:
        relations = (
            '<Relationships><Relationship Type="x/styles" TargetMode="External" '
            'Target="http://127.0.0.1:9/styles.xml"/><Relationship Type="x/header" '
            'Target="../../../../etc/passwd"/><Relationship Type="x/attachedTemplate" '
            'Target="http://127.0.0.1:9/x.dotm"/></Relationships>'
        )
        data = raw_docx(body(paragraph("甲")), **{"_rels/document.xml.rels": relations})

        assert text_of(data) == "甲"

    def test_a_part_that_refers_to_itself(self) -> None:
        relations = (
            '<Relationships><Relationship Type="x/header" Target="document.xml"/>'
            "</Relationships>"
        )
        data = raw_docx(body(paragraph("甲")), **{"_rels/document.xml.rels": relations})

        assert text_of(data) == "甲\n\n甲"

    def test_styles_based_on_each_other(self) -> None:
        styles = (
            f'<w:styles xmlns:w="{WORD}">'
            '<w:style w:styleId="a"><w:basedOn w:val="b"/></w:style>'
            '<w:style w:styleId="b"><w:basedOn w:val="a"/></w:style></w:styles>'
        )
        relations = (
            '<Relationships><Relationship Type="x/styles" Target="styles.xml"/>'
            "</Relationships>"
        )
        data = raw_docx(
            body(paragraph("甲", '<w:pStyle w:val="a"/>')),
            **{"styles.xml": styles, "_rels/document.xml.rels": relations},
        )

        assert text_of(data) == "甲"

    def test_endless_nesting(self) -> None:
        nested = "<w:tbl>" * 100_000 + "</w:tbl>" * 100_000

        with pytest.raises(UnreadableDocument):
            extract(raw_docx(body(nested)), type="docx")

    def test_a_run_of_ten_megabytes_is_read(self) -> None:
        numbers = [str(n) for n in Random(1).choices(range(10**9), k=1_100_000)]  # noqa: S311

        found = text_of(raw_docx(body(paragraph(" ".join(numbers)))))

        assert len(found) > 10 << 20
        assert found.split() == numbers

    @pytest.mark.parametrize("content", ["<w:p>", "</w:p>", "&undefined;", "<w:p/>\0"])
    def test_broken(self, content: str) -> None:
        with pytest.raises(UnreadableDocument):
            extract(raw_docx(body(content)), type="docx")


class TestHostileArchives:
    def test_a_bomb(self) -> None:
        data = raw_docx(body(paragraph("甲")), bomb=bytes(60 << 20))

        with pytest.raises(UnreadableDocument):
            extract(data, type="docx")

    def test_a_bomb_whose_directory_lies(self) -> None:
        data = raw_docx(body(paragraph("甲")), bomb=bytes(60 << 20))
        size = struct.pack("<I", 60 << 20)

        lying = data.replace(size, struct.pack("<I", 1000))

        assert lying != data
        with pytest.raises(UnreadableDocument):
            extract(lying, type="docx")

    def test_many_small_bombs(self) -> None:
        parts = {f"part{n}": bytes(1 << 20) for n in range(101)}

        with pytest.raises(UnreadableDocument):
            extract(raw_docx(body(""), **parts), type="docx")

    def test_too_many_entries(self) -> None:
        parts = {f"part{n}": b"" for n in range(2_000)}

        with pytest.raises(UnreadableDocument):
            extract(raw_docx(body(""), **parts), type="docx")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_two_entries_of_one_name(self) -> None:
        file = io.BytesIO(simple_docx("Hello"))
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("word/document.xml", body(paragraph("Other")))

        with pytest.raises(UnreadableDocument):
            extract(file.getvalue(), type="docx")

    def test_entries_that_overlap(self) -> None:
        data = bytearray(raw_docx(body(paragraph("甲")), a=b"x" * 9, b=b"y" * 9))
        last = data.rfind(b"PK\x01\x02")
        before = data.rfind(b"PK\x01\x02", 0, last)
        data[last + 42 : last + 46] = data[before + 42 : before + 46]

        with pytest.raises(UnreadableDocument):
            extract(bytes(data), type="docx")

    def test_a_link(self) -> None:
        file = io.BytesIO(simple_docx("Hello"))
        with zipfile.ZipFile(file, "a") as archive:
            link = zipfile.ZipInfo("word/link")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")

        with pytest.raises(UnreadableDocument):
            extract(file.getvalue(), type="docx")

    def test_an_encrypted_entry(self) -> None:
        data = bytearray(simple_docx("Hello"))
        place = data.find(b"PK\x01\x02")
        data[place + 8] |= 1

        with pytest.raises(EncryptedDocument):
            extract(bytes(data), type="docx")

    def test_another_compression(self) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("[Content_Types].xml", "<Types/>")

        with pytest.raises(UnreadableDocument):
            extract(file.getvalue(), type="docx")


def protected(password: str, algorithm: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(pages_pdf(lines("Hidden words"))))
    writer.encrypt(password, owner_password="owner", algorithm=algorithm)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


class TestPdf:
    def test_pages_are_kept(self) -> None:
        data = pages_pdf(lines("One."), lines("Two."), lines(), lines("Four."))

        found = extract(data, type="pdf")

        assert found.text == "One.\nTwo.\nFour.\n"
        assert found.pages == (0, 5, 10, 10)

    def test_lines_cut_at_the_margin_are_joined(self) -> None:
        data = pages_pdf(
            lines(
                "The quick brown fox jumps over the lazy dog and runs a-",
                "way from the farm, and nobody has ever seen it come back",
                "to the place.",
                "A new paragraph begins here.",
            )
        )

        assert text_of(data, type="pdf").splitlines() == [
            "The quick brown fox jumps over the lazy dog and runs away from the farm, "
            "and nobody has ever seen it come back to the place.",
            "A new paragraph begins here.",
        ]

    @pytest.mark.parametrize("hyphen", ["\u00ad", "\u2010"])
    def test_lines_are_cut_with_several_hyphens(self, hyphen: str) -> None:
        # The font says what its sign for a hyphen, number 5, is.
        to_unicode = (
            "1 begincodespacerange\n<00> <ff>\nendcodespacerange\n2 beginbfrange\n"
            f"<20> <7e> <0020>\n<05> <05> <{ord(hyphen):04x}>\nendbfrange"
        )
        page = lines("The two parties gave each other all infor\5", "mation they had.")
        data = pages_pdf(page).replace(
            b"/BaseFont /Helvetica >>",
            b"/BaseFont /Helvetica /ToUnicode 6 0 R >>",
        )
        objects = data.split(b" obj\n")[1:]
        bodies = [each.rpartition(b"\nendobj")[0] for each in objects]

        found = text_of(pdf([*bodies, stream(to_unicode.encode())]), type="pdf")

        assert found == "The two parties gave each other all information they had.\n"

    @pytest.mark.parametrize(
        "before", [b"\xef\xbb\xbf\r\n", b"X-Mailer: 1\r\n\r\n" * 40]
    )
    def test_it_may_begin_a_little_later(self, before: bytes) -> None:
        data = before + pages_pdf(lines("One."), lines("Two."))

        assert text_of(data, type="pdf") == "One.\nTwo.\n"

    def test_an_office_file_may_be_attached(self) -> None:
        attached = simple_docx("source")
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 5 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>",
            stream(lines("Hello")),
            b"<< /Type /EmbeddedFile /Length %d >>\nstream\n%b\nendstream"
            % (len(attached), attached),
        ]

        assert text_of(pdf(objects), type="pdf") == "Hello\n"

    @pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
    def test_a_password(self, algorithm: str) -> None:
        with pytest.raises(EncryptedDocument):
            extract(protected("secret", algorithm), type="pdf")

    @pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
    def test_an_empty_password_opens(self, algorithm: str) -> None:
        found = text_of(protected("", algorithm), type="pdf")

        assert found == "Hidden words\n"

    def test_pictures_alone(self) -> None:
        picture = b"q 100 0 0 100 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x00 EI Q"

        with pytest.raises(NoText):
            extract(pages_pdf(picture), type="pdf")

    def test_no_pages(self) -> None:
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [] /Count 0 >>",
        ]

        with pytest.raises(NoText):
            extract(pdf(objects), type="pdf")

    def test_an_object_that_is_its_own_stream(self) -> None:
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
            stream(b"/X Do", b"/Resources << /XObject << /X 4 0 R >> >>"),
        ]

        with pytest.raises(NoText):
            extract(pdf(objects), type="pdf")
