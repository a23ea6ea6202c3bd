"""Formulas of Word documents, as text."""

from __future__ import annotations

import io

import docx
import pytest
from docx.oxml import parse_xml

from rag.extraction.extract import extract
from tests.rag.documents import body, raw_docx

MATH = (
    "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "http://purl.oclc.org/ooxml/officeDocument/math",
)


def of(name: str, *inner: str) -> str:
    return f"<m:{name}>{''.join(inner)}</m:{name}>"


def run(*texts: str) -> str:
    return "".join(of("r", of("t", text)) for text in texts)


def sign(name: str, value: str) -> str:
    return f'<m:{name} m:val="{value}"/>'


def text_of(data: bytes) -> str:
    return extract(data, type="docx").text


SQUARE = of("sSup", of("e", run("x")), of("sup", run("2")))
INDEXED = of("sSub", of("e", run("a")), of("sub", run("i", "+", "1")))


@pytest.mark.parametrize(
    ("formula", "read"),
    [
        (
            f"{of('f', of('fPr'), of('num', run('1')), of('den', run('2')))}"
            f"{run('=')}{of('f', of('num', SQUARE, run('+y')), of('den', INDEXED))}",
            "1/2=(x^2+y)/(a_(i+1))",
        ),
        (run("2") + of("f", of("num", run("1")), of("den", run("2"))), "2 1/2"),
        (SQUARE + of("f", of("num", run("1")), of("den", run("n"))), "x^2 1/n"),
        (of("sSup", of("e", run("x")), of("sup")), "x"),
        (run("f") + of("d", of("dPr"), of("e", run("x"))), "f(x)"),
        (run("f") + of("d", of("e", run("x")), of("e", run("y"))), "f(x|y)"),
        (
            of("d", of("dPr", sign("begChr", "["), sign("sepChr", ","),
                       sign("endChr", ")")), of("e", run("0")), of("e", run("1"))),
            "[0,1)",
        ),
        (
            of("d", of("dPr", sign("begChr", "{"), sign("endChr", "")),
               of("e", of("eqArr", of("e", run("x=1")), of("e", run("y=2"))))),
            "{x=1 y=2",
        ),
        (
            of("nary", of("naryPr", sign("chr", "∑")), of("sub", run("i"), run("=1")),
               of("sup", run("n")), of("e", run("x"))),
            "∑_(i=1)^n x",
        ),
        (of("nary", of("naryPr"), of("sub"), of("sup"), of("e", run("f"))), "∫ f"),
        (of("rad", of("radPr"), of("deg"), of("e", run("2"))), "√2"),
        (
            of("rad", of("deg", run("3")), of("e", run("x"), run("+1"))),
            "√[3](x+1)",
        ),
        (of("rad", of("deg"), of("e", of("d", of("e", run("x"))))), "√((x))"),
        (
            of("d", of("dPr", sign("begChr", "["), sign("endChr", "]")), of("e", of(
                "m", of("mPr"), of("mr", of("e", run("1")), of("e", run("2"))),
                of("mr", of("e", run("3")), of("e", run("4")))))),
            "[1 2; 3 4]",
        ),
        (of("func", of("fName", run("sin")), of("e", run("x"))), "sin x"),
        (
            of("limLow", of("e", run("lim")), of("lim", run("x"), run("→0"))),
            "lim_(x→0)",
        ),
        (of("acc", of("accPr", sign("chr", "̂")), of("e", run("x"))), "x"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("space", MATH)
def test_a_formula_is_written_on_one_line(formula: str, read: str, space: str) -> None:
    content = f'<w:p><m:oMath xmlns:m="{space}">{formula}</m:oMath></w:p>'

    assert text_of(raw_docx(body(content))) == read


def test_a_formula_stands_in_its_sentence() -> None:
    """In a document that python-docx has written."""
    document = docx.Document()
    paragraph = document.add_paragraph("设 ")
    inner = run("f") + of("d", of("e", run("x"))) + run("=") + SQUARE
    formula = f'<m:oMath xmlns:m="{MATH[0]}">{inner}</m:oMath>'
    paragraph._p.append(parse_xml(formula))
    paragraph.add_run(" 可导。")
    document.add_paragraph("(1)")
    saved = io.BytesIO()
    document.save(saved)

    assert text_of(saved.getvalue()) == "设 f(x)=x^2 可导。\n\n(1)"
