"""Heartbeats, checkpoints, and answers whose process died."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from conversations.models import Message, Writer
from conversations.writers import (
    Growth,
    beat,
    beat_if_silent,
    forget_dead_writers,
    interrupt_orphans,
    tick,
)
from tests.conftest import make_user
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)


@pytest.fixture
def alice(db):
    return make_user("alice")


@pytest.fixture
def conversation(alice):
    return make_conversation(alice)


def heard_of(writer):
    return Writer.objects.get(pk=writer).heartbeat_at


def grown(answer, text="Hello", reasoning=""):
    return Growth(answer_pk=answer.pk, text=text, reasoning=reasoning)


def test_the_first_beat_makes_the_row_and_the_next_renew_it(db):
    writer = uuid.uuid4()

    beat(writer)
    first = heard_of(writer)
    Writer.objects.update(heartbeat_at=first - timedelta(minutes=1))
    beat(writer)

    assert heard_of(writer) >= first
    assert Writer.objects.count() == 1
    assert abs(timezone.now() - heard_of(writer)) < timedelta(seconds=30)


def test_who_was_heard_just_now_need_not_beat_again(db):
    writer = uuid.uuid4()

    beat_if_silent(writer)
    first = heard_of(writer)
    beat_if_silent(writer)
    assert heard_of(writer) == first

    Writer.objects.update(heartbeat_at=first - timedelta(seconds=2))
    beat_if_silent(writer)
    assert heard_of(writer) >= first


def test_a_beat_leaves_other_writers_as_they_are(db):
    silent = make_writer(silent=60)
    before = heard_of(silent)

    beat(uuid.uuid4())

    assert heard_of(silent) == before


def test_a_tick_beats(db):
    writer = make_writer(silent=60)
    before = heard_of(writer)

    tick(writer=writer, grown=[])

    assert heard_of(writer) > before + timedelta(seconds=50)


def test_a_tick_stores_what_grew(conversation):
    writer = make_writer()
    answer = make_streaming(conversation, writer=writer, content="He")
    version = conversation.version

    held = tick(writer=writer, grown=[grown(answer, "Hello", "Hm")])

    answer.refresh_from_db()
    assert (answer.content, answer.reasoning) == ("Hello", "Hm")
    assert (answer.status, answer.writer_id) == ("streaming", writer)
    assert held.open == {answer.pk}
    assert held.to_stop == frozenset()
    conversation.refresh_from_db()
    assert conversation.version == version


@pytest.mark.parametrize(
    "status", ["complete", "stopped", "truncated", "failed", "interrupted"]
)
def test_a_tick_leaves_a_closed_answer_alone(conversation, status):
    writer = make_writer()
    answer = make_streaming(conversation, writer=writer, content="Whole")
    Message.objects.filter(pk=answer.pk).update(status=status)

    held = tick(writer=writer, grown=[grown(answer, "Torn")])

    answer.refresh_from_db()
    assert answer.content == "Whole"
    assert held.open == frozenset()


def test_a_tick_leaves_another_writers_answer_alone(conversation):
    answer = make_streaming(conversation, writer=make_writer(), content="Theirs")

    held = tick(writer=make_writer(), grown=[grown(answer, "Mine")])

    answer.refresh_from_db()
    assert answer.content == "Theirs"
    assert answer.status == "streaming"
    assert held.open == frozenset()


def test_a_tick_says_what_is_to_stop(alice):
    writer = make_writer()
    going, stopping = (
        make_streaming(make_conversation(alice), writer=writer) for _ in range(2)
    )
    Message.objects.filter(pk=stopping.pk).update(stop_requested=True)

    held = tick(writer=writer, grown=[])

    assert held.open == {going.pk, stopping.pk}
    assert held.to_stop == {stopping.pk}


def test_a_tick_ends_what_the_dead_left(conversation):
    answer = make_streaming(conversation, writer=make_writer(silent=7))

    tick(writer=make_writer(), grown=[])

    answer.refresh_from_db()
    assert answer.status == "interrupted"


def test_who_wakes_from_a_long_sleep_keeps_its_own_answers(conversation):
    writer = make_writer(silent=3600)
    answer = make_streaming(conversation, writer=writer)

    held = tick(writer=writer, grown=[grown(answer)])

    answer.refresh_from_db()
    assert (answer.status, answer.content) == ("streaming", "Hello")
    assert held.open == {answer.pk}


def test_the_answer_of_a_dead_writer_is_interrupted_with_its_text(conversation):
    answer = make_streaming(conversation, writer=make_writer(silent=7), content="So fa")
    version = conversation.version

    assert interrupt_orphans() == 1

    answer.refresh_from_db()
    assert (answer.status, answer.error_code) == ("interrupted", "interrupted")
    assert (answer.content, answer.writer) == ("So fa", None)
    assert answer.finished_at is not None
    assert abs(timezone.now() - answer.finished_at) < timedelta(seconds=30)
    conversation.refresh_from_db()
    assert conversation.version == version + 1


def test_an_answer_without_a_writer_is_interrupted(conversation):
    answer = make_streaming(conversation, writer=None)

    assert interrupt_orphans() == 1

    answer.refresh_from_db()
    assert answer.status == "interrupted"


@pytest.mark.parametrize("silent", [0, 4])
def test_the_answer_of_a_live_writer_is_left_alone(conversation, silent):
    answer = make_streaming(conversation, writer=make_writer(silent=silent))
    before = Message.objects.filter(pk=answer.pk).values().get()

    assert interrupt_orphans() == 0

    assert Message.objects.filter(pk=answer.pk).values().get() == before


def test_closed_answers_are_no_orphans(conversation):
    make_turns(conversation, "One", "Two")
    before = list(Message.objects.values())

    assert interrupt_orphans() == 0

    assert list(Message.objects.values()) == before


def test_only_the_named_conversations_orphan_is_interrupted(alice):
    here, there = (make_conversation(alice) for _ in range(2))
    dead = make_writer(silent=7)
    ours = make_streaming(here, writer=dead)
    theirs = make_streaming(there, writer=dead)

    assert interrupt_orphans(conversation_id=here.pk) == 1

    ours.refresh_from_db()
    theirs.refresh_from_db()
    assert (ours.status, theirs.status) == ("interrupted", "streaming")


def test_looking_for_orphans_is_one_read_when_there_are_none(
    conversation, django_assert_num_queries
):
    make_turns(conversation, *["Text"] * 50)

    with django_assert_num_queries(1):
        interrupt_orphans()


def test_a_tick_costs_one_statement_for_each_answer_that_grew(
    alice, django_assert_max_num_queries
):
    writer = make_writer()
    answers = [
        make_streaming(make_conversation(alice), writer=writer) for _ in range(20)
    ]

    # And the heartbeat, what is held, the orphans, a savepoint and its release.
    with django_assert_max_num_queries(20 + 5):
        tick(writer=writer, grown=[grown(answer) for answer in answers])


def test_writers_long_dead_are_forgotten(db):
    make_writer(silent=3700)
    silent, live = make_writer(silent=60), make_writer()

    assert forget_dead_writers() == 1

    assert set(Writer.objects.values_list("pk", flat=True)) == {silent, live}


def test_a_dead_writer_is_kept_while_it_holds_an_answer(conversation):
    writer = make_writer(silent=3700)
    make_streaming(conversation, writer=writer)

    assert forget_dead_writers() == 0

    assert Writer.objects.filter(pk=writer).exists()
    interrupt_orphans()
    assert forget_dead_writers() == 1
