"""GET /api/conversations/search."""

from __future__ import annotations

import pytest
from django.utils import timezone
from hypothesis import example, given, settings, strategies as st

from accounts import lifecycle
from conversations import segments
from conversations.models import Conversation, Message, SearchBucket, SearchSegment
from conversations.words import (
    bucket_of,
    buckets,
    folded,
    hashes_of,
    marks_of,
    numbers_in,
    spans,
    words_of,
)
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)
from tests.fake_provider import Script

PATH = "/api/conversations/search"
ENOUGH = segments.MESSAGES


def find(client, q, **query):
    response = client.get(PATH, params={"q": q, **query})
    assert response.status_code == 200, response.text
    return response.json()


def found_by(client, q, **query):
    """The message_ids that are found; None stands for a title."""
    return [hit["message_id"] for hit in find(client, q, **query)]


@pytest.fixture
def lease(alice):
    """A conversation about a lease, in two languages."""
    conversation = make_conversation(alice, title="租赁合同")
    make_turns(
        conversation,
        "租赁期限不得超过二十年。超过二十年的,超过部分无效。",
        "A lease may not exceed twenty years, says the Civil Code.",
        "GPT-4o 也这样说:twenty years。",
    )
    return conversation


class TestWhatIsFound:
    @pytest.mark.parametrize(
        ("q", "ids"),
        [
            ("无", [2]),
            ("期限", [2]),
            ("超过部分无效", [2]),
            ("年超过", []),
            ("TWENTY", [6, 4]),
            ("ｔｗｅｎｔｙ", [6, 4]),
            ("years twenty", [6, 4]),
            ("twenty lease", [4]),
            ("twenty 这样", [6]),
            ("twent", []),
            ("wenty", []),
            ("gpt-4o", [6]),
            ("4o", [6]),
            ("4", []),
            ("合同", [None]),
            ("租赁", [None, 2]),
            ("租赁 二十", [2]),
            ("鿿", []),
        ],
    )
    def test_is_what_holds_every_word(self, as_alice, lease, q, ids):
        assert found_by(as_alice, q) == ids

    @pytest.mark.parametrize(
        ("q", "ids"), [("100%", [2]), ("1%0", []), ("a_b", [4]), ("a%b", [4])]
    )
    def test_knows_no_wildcards(self, as_alice, alice, q, ids):
        make_turns(make_conversation(alice), "100 %", "a_b", r"\ab", "axb")

        assert found_by(as_alice, q) == ids

    def test_shows_the_hits_in_their_context(self, as_alice, alice):
        conversation = make_conversation(alice)
        text = "😀" * 60 + "Rust and " + "x" * 50 + " rust" + "语" * 300
        make_turns(conversation, "Hi", text)

        (title, hit) = find(as_alice, "RUST")

        assert title == {
            "conversation_id": conversation.pk,
            "title": "Rust",
            "message_id": None,
            "role": None,
            "snippet": "Rust",
            "ranges": [[0, 4]],
        }
        assert hit.pop("snippet") == text[20:180]
        assert hit == {
            "conversation_id": conversation.pk,
            "title": "Rust",
            "message_id": 4,
            "role": "assistant",
            "ranges": [[40, 44], [100, 104]],
        }

    def test_ranges_of_words_that_overlap_are_one(self, as_alice, alice):
        make_turns(make_conversation(alice), "房屋租赁合同")

        (hit,) = find(as_alice, "租赁合 赁合同")

        assert hit["ranges"] == [[2, 6]]

    def test_titles_come_first_then_the_latest_message(self, as_alice, alice):
        older, newer = (make_conversation(alice, title=f"{n}号") for n in (1, 2))
        make_turns(older, "一号", "二号")
        make_turns(newer, "三号")

        hits = find(as_alice, "号")

        assert [(hit["conversation_id"], hit["message_id"]) for hit in hits] == [
            (newer.pk, None),
            (older.pk, None),
            (newer.pk, 2),
            (older.pk, 4),
            (older.pk, 2),
        ]

    def test_takes_in_what_is_being_written_and_other_branches(
        self, as_alice, alice, provider
    ):
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "How do swifts sleep?")
        as_alice.post(
            f"/api/chat/{conversation}/edit",
            json={"message_id": 1, "message": "How do gulls sleep?"},
        )
        other = make_conversation(alice)
        make_streaming(other, writer=make_writer(), content="Swifts sleep in")

        assert found_by(as_alice, "swifts") == [2, 1]
        assert found_by(as_alice, "gulls") == [3]

    def test_is_ones_own(self, as_alice, as_mallory, lease):
        assert find(as_alice, "twenty")
        assert find(as_mallory, "twenty") == []

    def test_reads_titles_of_several_lines(self, as_alice, alice):
        for title in ("a\nb", "租\n赁", "c"):
            make_conversation(alice, title=title)

        assert [hit["title"] for hit in find(as_alice, "c")] == ["c"]
        assert find(as_alice, "租赁") == []


class TestTheQuery:
    @pytest.mark.parametrize(
        "query", ["", "q=", "q=%20", "q=%25%25", "q=_", "q=%F0%9F%98%80", "q=a%00b"]
    )
    def test_without_a_word_is_a_400(self, as_alice, query):
        response = as_alice.get(f"{PATH}?{query}")

        assert response.status_code == 400
        assert response.json()["error"].startswith("q: ")

    @pytest.mark.parametrize(("length", "status"), [(200, 200), (201, 400)])
    def test_has_a_longest_length(self, as_alice, length, status):
        assert as_alice.get(PATH, params={"q": "租" * length}).status_code == status

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=201", "limit=x", "before=x", "before=1-x", "before=-1"],
    )
    def test_of_no_page_is_a_400(self, as_alice, query):
        response = as_alice.get(f"{PATH}?q=a&{query}")

        assert response.status_code == 400
        assert response.json()["error"].startswith(query.partition("=")[0])


class TestPages:
    @pytest.fixture
    def whole(self, as_alice, alice):
        """Everything that is found, of three titles and nine messages."""
        for number in range(3):
            conversation = make_conversation(alice, title=f"租{number}")
            make_turns(conversation, "租一", "别的", "租二", "租三")
        whole = find(as_alice, "租")
        assert len(whole) == 12
        return whole

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 11, 12, 200])
    def test_together_they_are_everything(self, as_alice, whole, limit):
        pages, query = [], {"q": "租", "limit": limit}
        while True:
            response = as_alice.get(PATH, params=query)
            pages.append(response.json())
            if "X-Next-Before" not in response.headers:
                break
            query["before"] = response.headers["X-Next-Before"]

        assert [hit for page in pages for hit in page] == whole
        assert all(len(page) == limit for page in pages[:-1])

    def test_are_of_twenty_unless_said_otherwise(self, as_alice, alice):
        make_turns(make_conversation(alice), *(["租"] * 21))

        assert len(find(as_alice, "租")) == 20

    def test_begin_at_ones_own_places_only(self, as_mallory, alice, whole):
        own = whole[0]["conversation_id"]
        for before in (own, f"{own}-2", 4711, "4711-2", 2**53):
            response = as_mallory.get(PATH, params={"q": "租", "before": before})
            assert response.status_code == 404

    def test_begin_at_messages_there_are(self, as_alice, whole):
        before = f"{whole[0]['conversation_id']}-77"

        response = as_alice.get(PATH, params={"q": "租", "before": before})

        assert response.status_code == 404


def many(owner, count, content="夜里很静。", **fields):
    """A conversation of so many messages."""
    conversation = make_conversation(owner, **fields)
    now = timezone.now()
    Message.objects.bulk_create(
        Message(
            conversation=conversation,
            number=number,
            role="user",
            content=content,
            created_at=now,
        )
        for number in range(1, count + 1)
    )
    return conversation


class TestTheIndex:
    def test_is_made_by_a_search_that_meets_many_messages(self, as_alice, alice, lease):
        many(alice, ENOUGH)
        questions = ("twenty", "租赁", "超过部分无效", "鿿", "years lease")

        before = [find(as_alice, q) for q in questions]
        covered = Message.objects.exclude(segment=None)

        assert covered.count() == ENOUGH
        assert covered.filter(conversation=lease).count() == 6
        assert [find(as_alice, q) for q in questions] == before
        assert covered.count() == ENOUGH

    def test_spares_reading_what_it_covers(self, as_alice, alice, statements):
        many(alice, 3 * ENOUGH)
        find(as_alice, "鿿")
        assert not segments.unindexed(alice).exists()
        statements.clear()

        find(as_alice, "鿿")

        assert not [sql for sql in statements if '"content"' in sql]
        assert len(statements) == 6

    def test_few_messages_need_none(self, as_alice, alice):
        many(alice, ENOUGH - 1)

        find(as_alice, "鿿")

        assert not SearchSegment.objects.exists()

    def test_leaves_out_what_is_being_written(self, as_alice, alice):
        answer = make_streaming(make_conversation(alice), writer=make_writer())
        many(alice, ENOUGH)

        find(as_alice, "鿿")

        answer.refresh_from_db()
        assert answer.segment_id is None
        assert SearchSegment.objects.count() == 1

    def test_a_continued_answer_is_found_by_what_was_added(
        self, as_alice, alice, provider
    ):
        provider.enqueue(
            Script(pieces=["Once upon"], finish_reason="length"),
            Script(pieces=[" a lighthouse"]),
        )
        conversation = as_alice.conversation()
        as_alice.ask(conversation, "Hi")
        many(alice, ENOUGH)
        assert found_by(as_alice, "once") == [2]
        assert Message.objects.get(content="Once upon").segment_id

        as_alice.post(f"/api/chat/{conversation}/continue", json={})

        assert found_by(as_alice, "lighthouse") == [2]
        assert found_by(as_alice, "once") == [2]

    def test_forgets_what_is_deleted_and_keeps_the_rest(self, as_alice, alice, lease):
        many(alice, ENOUGH)
        find(as_alice, "鿿")
        other = make_conversation(alice)
        make_turns(other, "租赁")
        assert found_by(as_alice, "租赁") == [None, 2, 2]

        as_alice.post(f"/api/conversations/del/{lease.pk}")

        assert not SearchSegment.objects.exists()
        assert not SearchBucket.objects.exists()
        assert found_by(as_alice, "租赁") == [2]
        assert find(as_alice, "夜里")

    def test_goes_with_its_owner(self, as_alice, alice, mallory):
        kept = many(mallory, ENOUGH)
        many(alice, 2 * ENOUGH)
        find(as_alice, "鿿")
        segments.index_some(mallory)

        lifecycle.delete(alice, by=None)

        assert {segment.owner_id for segment in SearchSegment.objects.all()} == {
            mallory.pk
        }
        assert list(Conversation.objects.all()) == [kept]

    def test_others_messages_are_neither_read_nor_indexed(
        self, as_alice, alice, mallory
    ):
        many(mallory, 2 * ENOUGH, content="twenty years")
        many(alice, 3)

        assert find(as_alice, "twenty") == []
        assert not SearchSegment.objects.exists()

    def test_a_page_ends_where_much_was_read_for_it(self, as_alice, alice):
        # Each of them has the marks of the phrase, and none has the phrase.
        make_turns(make_conversation(alice), "租赁合同")
        many(alice, 3200, content="租赁,赁合,合同")

        first = as_alice.get(PATH, params={"q": "租赁合同"})

        assert first.json() == []
        before = first.headers["X-Next-Before"]
        rest = as_alice.get(PATH, params={"q": "租赁合同", "before": before})
        assert [hit["message_id"] for hit in rest.json()] == [2]
        assert "X-Next-Before" not in rest.headers

    def test_long_messages_are_indexed_a_few_at_a_time(self, as_alice, alice):
        many(alice, 3, content="夜" * (segments.CHARACTERS // 2))

        assert list(segments.index_all(alice)) == [3]


TEXT = st.text(st.sampled_from("租赁合同 aB-Ｃ4_é\n。😀ß"), max_size=30)


@settings(max_examples=300)
@given(texts=st.lists(TEXT, min_size=1, max_size=5), query=TEXT)
@example(texts=["", "租"], query="租")
@example(texts=["a租b"], query="A B")
def test_marks_never_miss_a_text_that_holds_the_words(texts, query):
    words = words_of(query)
    stored = buckets(marks_of(texts))

    for number, text in enumerate(texts):
        if words and spans(text, words):
            for hashed in hashes_of(words):
                numbers = numbers_in(stored[bucket_of(hashed)], hashed)
                assert number in numbers


@given(text=st.text())
@example(text="Ⅷ，ｶﾞe\u0301 ẞİ…ς")
def test_a_text_is_folded_character_by_character(text):
    assert folded(text) == "".join(map(folded, text))
    assert len(folded(text)) == len(text)


@settings(max_examples=300)
@given(text=TEXT, query=TEXT)
def test_a_span_is_a_word_of_the_query(text, query):
    words = words_of(query)

    for start, end in spans(text, words):
        assert words_of(text[start:end]) == [words_of(text[start:end])[0]]
        assert words_of(text[start:end])[0] in words
