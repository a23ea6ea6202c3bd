"""The encoding of a text file: found, never guessed in silence."""

from __future__ import annotations

import random
import struct

import pytest

from llmbackend.errors import UnknownEncoding, UnsupportedType
from rag.encodings import decode

SIMPLIFIED = (
    "为了保护民事主体的合法权益，调整民事关系，维护社会和经济秩序，适应中国特色社会主义"
    "发展要求，弘扬社会主义核心价值观，根据宪法，制定本法。民事主体的人身权利受法律保护。"
)
TRADITIONAL = (
    "為了保護民事主體的合法權益，調整民事關係，維護社會和經濟秩序，適應國家發展的要求，"
    "弘揚核心價值觀，根據憲法，制定本法。民事主體的人身權利、財產權利受法律保護。"
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗い"
    "じめじめした所でニャーニャー泣いていた事だけは記憶している。"
)
KOREAN = (
    "모든 국민은 법 앞에 평등하다. 누구든지 성별, 종교 또는 "
    "사회적 신분에 의하여 정치적, 경제적, 사회적, 문화적 생활의 "
    "모든 영역에 있어서 차별을 받지 아니한다."
)
RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах."
FRENCH = "Tous les êtres humains naissent libres et égaux en dignité et en droits."
ENGLISH = "Beyoncé’s fee – about £50,000 – was paid at a café in the city’s centre."
GERMAN = (
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit "
    "Vernunft begabt und sollen einander im Geiste der Brüderlichkeit begegnen. Die "
    "Würde des Menschen ist unantastbar, für jeden, überall und zu jeder Zeit."
)
SPANISH = (
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados "
    "como están de razón y conciencia, deben comportarse fraternalmente los unos con "
    "los otros. ¿Toda persona tiene derecho a educación? Sí, y también a protección."
)
POLISH = "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i praw."
CZECH = (
    "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv, jsou nadáni "
    "rozumem a svědomím a mají spolu jednat v duchu bratrství. Každý má všechna práva "
    "a všechny svobody stanovené touto deklarací, bez jakéhokoli rozlišování."
)
HUNGARIAN = (
    "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az "
    "emberek, ésszel és lelkiismerettel bírván, egymással szemben testvéri "
    "szellemben kell hogy viseltessenek. Mindenkinek joga van az élethez és erőhöz."
)
TURKISH = "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar."
LATVIAN = "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās."
GREEK = (
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα "
    "δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να "
    "συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης."
)
ARABIC = "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق."
OF_EUROPE = [
    *((GERMAN, encoding) for encoding in ("cp1252", "cp850")),
    *((SPANISH, encoding) for encoding in ("cp1252", "mac_roman")),
    *((POLISH, encoding) for encoding in ("cp1250", "iso8859_2", "cp852")),
    *((CZECH, encoding) for encoding in ("cp1250", "iso8859_2", "cp852")),
    *((HUNGARIAN, encoding) for encoding in ("cp1250", "iso8859_2", "cp852")),
    (TURKISH, "cp1254"),
    (LATVIAN, "cp1257"),
    (GREEK, "cp1253"),
    *((RUSSIAN, encoding) for encoding in ("iso8859_5", "cp866")),
]


class TestFinding:
    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            (SIMPLIFIED, "utf-8"),
            (SIMPLIFIED, "utf-8-sig"),
            (SIMPLIFIED, "utf-16"),
            (SIMPLIFIED, "utf-16-le"),
            (SIMPLIFIED, "utf-16-be"),
            (SIMPLIFIED, "utf-32"),
            (SIMPLIFIED, "gb2312"),
            (SIMPLIFIED, "gbk"),
            (SIMPLIFIED + "㐀𠀀", "gb18030"),
            (TRADITIONAL, "big5"),
            (TRADITIONAL, "gbk"),
            (TRADITIONAL, "utf-16-be"),
            (JAPANESE, "shift_jis"),
            (JAPANESE, "euc_jp"),
            (JAPANESE, "utf-16-le"),
            (JAPANESE, "iso2022_jp"),
            (JAPANESE + "\uff71\uff72", "iso2022_jp_ext"),
            (KOREAN, "euc_kr"),
            (KOREAN, "iso2022_kr"),
            (RUSSIAN, "cp1251"),
            (RUSSIAN, "koi8-r"),
            (FRENCH, "latin-1"),
            (ENGLISH, "cp1252"),
            (ENGLISH, "utf-16-le"),
            (ENGLISH, "utf-16-be"),
            (ARABIC, "cp1256"),
            *OF_EUROPE,
        ],
    )
    def test_the_text_comes_back(self, text: str, encoding: str) -> None:
        found = decode(text.encode(encoding))

        assert found.text == text
        assert text.encode(encoding).decode(found.encoding).lstrip("\ufeff") == text

    def test_the_other_end_of_utf_16_has_a_mark_too(self) -> None:
        assert decode(b"\xfe\xff" + SIMPLIFIED.encode("utf-16-be")).text == SIMPLIFIED

    def test_ascii_lines_before_the_first_telling_one_do_not_matter(self) -> None:
        text = "# a heading\n" * 20_000 + SIMPLIFIED

        assert decode(text.encode("gbk")).text == text

    def test_a_character_cut_by_the_sample_does_not_matter(self) -> None:
        text = "x" + SIMPLIFIED * 2_000

        assert decode(text.encode("gbk")).text == text

    def test_the_same_bytes_are_read_the_same_way_twice(self) -> None:
        data = JAPANESE.encode("euc_jp")

        assert decode(data) == decode(data)


class TestTheSendersWord:
    def test_it_is_taken(self) -> None:
        assert decode("café".encode("cp1252"), encoding="CP1252").text == "café"

    def test_it_wins_over_what_would_be_found(self) -> None:
        assert decode("é".encode(), encoding="latin-1").text == "Ã©"

    @pytest.mark.parametrize(
        "encoding",
        ["nope", "zlib", "hex", "rot13", "idna", "unicode_escape", "a\0b", "x" * 99],
    )
    def test_what_is_no_encoding_is_refused(self, encoding: str) -> None:
        with pytest.raises(UnknownEncoding):
            decode(b"abc", encoding=encoding)

    def test_bytes_of_another_encoding_are_refused_not_replaced(self) -> None:
        with pytest.raises(UnknownEncoding):
            decode(SIMPLIFIED.encode("gbk"), encoding="utf-8")


class TestWhatIsLeftOut:
    @pytest.mark.parametrize("text", [SIMPLIFIED, ENGLISH, "Hello, world"])
    def test_stray_nuls_are_stripped(self, text: str) -> None:
        assert decode(f"{text[:5]}\0{text[5:]}".encode()).text == text

    def test_half_a_surrogate_pair_is_not_decoded(self) -> None:
        with pytest.raises((UnknownEncoding, UnsupportedType)):
            decode("abc\ud800".encode("utf-16-le", "surrogatepass"))

    def test_utf_7_does_not_bring_in_surrogates(self) -> None:
        assert decode(b"a+2AA-b", encoding="utf-7").text.isascii()


class TestRefusing:
    @pytest.mark.parametrize(
        "data",
        [
            struct.pack("<200I", *range(200)),
            b"\x7fELF\x02\x01\x01" + bytes(100) + b"\x03\0\x3e\0" * 20,
            b"\0\1\2abc" * 50,
            random.Random(1).randbytes(4000),  # noqa: S311
        ],
    )
    def test_a_binary_file(self, data: bytes) -> None:
        with pytest.raises(UnsupportedType):
            decode(data)

    @pytest.mark.parametrize("seed", range(10))
    def test_noise_without_nuls(self, seed: int) -> None:
        noise = random.Random(seed).randbytes(3000)  # noqa: S311
        noise = noise.replace(b"\0", b"")

        with pytest.raises(UnknownEncoding):
            decode(noise)

    @pytest.mark.parametrize(
        ("text", "encoding"),
        [*OF_EUROPE, (GERMAN, "mac_roman"), (SPANISH, "cp850")],
    )
    def test_a_sentence_is_read_as_it_is_or_not_at_all(
        self, text: str, encoding: str
    ) -> None:
        for sentence in text.split(". "):
            try:
                found = decode(sentence.encode(encoding))
            except UnknownEncoding:
                continue
            assert found.text == sentence

    @pytest.mark.parametrize("text", [GERMAN, SPANISH, FRENCH, ENGLISH])
    def test_no_sentence_of_western_europe(self, text: str) -> None:
        for sentence in text.split(". "):
            assert decode(sentence.encode("cp1252")).text == sentence

    def test_what_reads_well_in_two_ways(self) -> None:
        with pytest.raises(UnknownEncoding):
            decode(b"\xb9\xfa")
