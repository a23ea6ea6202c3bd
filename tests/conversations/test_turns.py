"""Opening and closing turns, where HTTP cannot reach."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import IntegrityError, connection, transaction

from conversations.asked import Question
from conversations.closing import Outcome, close_turn
from conversations.models import Conversation, Message, Writer
from conversations.turns import open_turn, turn_of
from conversations.writers import interrupt_orphans
from llmbackend.errors import AnswerInProgress, NotFound, UnknownModel
from tests.conftest import make_user
from tests.conversations.conftest import (
    make_conversation,
    make_streaming,
    make_turns,
    make_writer,
)
from tests.patience import PATIENCE

DONE = Outcome(
    status="complete",
    finish_reason="stop",
    text="Hello!",
    reasoning="Hm.",
    prompt_tokens=7,
    completion_tokens=3,
)


def ask(user, conversation, question="Hi", *, writer=None):
    opened = open_turn(
        user=user,
        conversation_id=conversation.pk,
        asked=Question(question),
        writer=writer or uuid.uuid4(),
    )
    assert not isinstance(opened, str)
    return turn_of(opened)


def all_rows():
    return [
        list(model.objects.order_by("pk").values())
        for model in (Conversation, Message, Writer)
    ]


@pytest.fixture
def alice(db):
    return make_user("alice")


@pytest.fixture
def conversation(alice):
    return make_conversation(alice)


def test_opening_stores_the_question_and_an_empty_answer_under_it(alice, conversation):
    writer = uuid.uuid4()

    turn = ask(alice, conversation, "介绍一下RUST", writer=writer)

    question, answer = Message.objects.order_by("number")
    assert (turn.question_id, turn.message_id) == (1, 2)
    assert (question.number, question.parent, question.role) == (1, None, "user")
    assert (question.content, question.status) == ("介绍一下RUST", "complete")
    assert (answer.number, answer.parent, answer.role) == (2, question, "assistant")
    assert (answer.content, answer.status) == ("", "streaming")
    assert (answer.pk, answer.writer_id) == (turn.answer_pk, writer)
    conversation.refresh_from_db()
    assert conversation.active_leaf == answer
    assert conversation.version == 1
    assert conversation.updated_at == question.created_at
    assert Writer.objects.get().pk == writer


def test_a_turn_carries_what_was_said_before_it(alice, conversation):
    make_turns(conversation, "One", "Two")

    turn = ask(alice, conversation, "And now?")

    assert [said.content for said in turn.earlier] == ["1", "One", "3", "Two"]
    assert (turn.question, turn.question_id, turn.message_id) == ("And now?", 5, 6)


def test_a_second_turn_is_refused_and_stores_nothing(alice, conversation):
    ask(alice, conversation)
    before = all_rows()

    with pytest.raises(AnswerInProgress):
        ask(alice, conversation, "And?")

    assert all_rows() == before


def test_turns_of_two_conversations_go_side_by_side(alice, conversation):
    writer = uuid.uuid4()

    turns = [
        ask(alice, each, writer=writer)
        for each in (conversation, make_conversation(alice))
    ]

    assert [turn.message_id for turn in turns] == [2, 2]
    assert Writer.objects.count() == 1


def test_an_answer_left_by_a_dead_writer_gives_way(alice, conversation):
    make_streaming(conversation, writer=make_writer(silent=7), content="So fa")

    turn = ask(alice, conversation, "Again?")

    assert (turn.question_id, turn.message_id) == (3, 4)
    left = Message.objects.get(number=2)
    assert (left.status, left.writer, left.content) == ("interrupted", None, "So fa")
    assert [said.content for said in turn.earlier] == ["1", "So fa"]


def test_a_foreign_or_unknown_conversation_is_not_found(conversation):
    mallory = make_user("mallory")
    before = all_rows()

    with pytest.raises(NotFound):
        ask(mallory, conversation)
    with pytest.raises(NotFound):
        ask(mallory, Conversation(pk=4711))

    assert all_rows() == before


def test_a_model_that_nobody_serves_any_more_stores_nothing(alice):
    conversation = make_conversation(alice, model="retired-1")
    before = all_rows()

    with pytest.raises(UnknownModel):
        ask(alice, conversation)

    assert all_rows() == before


def test_closing_stores_the_end(alice, conversation):
    writer = uuid.uuid4()
    turn = ask(alice, conversation, writer=writer)

    closed = close_turn(turn=turn, writer=writer, outcome=DONE)

    assert closed
    answer = Message.objects.get(number=2)
    assert (answer.status, answer.finish_reason) == ("complete", "stop")
    assert (answer.content, answer.reasoning) == ("Hello!", "Hm.")
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
    assert answer.writer is None
    assert answer.finished_at is not None
    conversation.refresh_from_db()
    assert conversation.version == 2


def test_closing_twice_changes_nothing_the_second_time(alice, conversation):
    writer = uuid.uuid4()
    turn = ask(alice, conversation, writer=writer)
    close_turn(turn=turn, writer=writer, outcome=DONE)
    before = all_rows()

    again = Outcome(status="failed", text="", reasoning="", error_code="internal")

    assert not close_turn(turn=turn, writer=writer, outcome=again)
    assert all_rows() == before


def test_closing_after_a_take_over_writes_nothing(alice, conversation):
    writer = make_writer()
    turn = ask(alice, conversation, writer=writer)
    silence(writer)
    interrupt_orphans()
    before = all_rows()

    assert not close_turn(turn=turn, writer=writer, outcome=DONE)
    assert all_rows() == before
    assert Message.objects.get(number=2).status == "interrupted"


def test_closing_as_another_writer_writes_nothing(alice, conversation):
    turn = ask(alice, conversation)
    before = all_rows()

    assert not close_turn(turn=turn, writer=make_writer(), outcome=DONE)
    assert all_rows()[:2] == before[:2]


def test_closing_after_the_deletion_writes_nothing(alice, conversation):
    writer = uuid.uuid4()
    turn = ask(alice, conversation, writer=writer)
    conversation.delete()

    assert not close_turn(turn=turn, writer=writer, outcome=DONE)
    assert not Message.objects.exists()
    assert not Conversation.objects.exists()


def test_the_database_itself_refuses_a_second_open_answer(alice, conversation):
    make_streaming(conversation, writer=make_writer())

    with pytest.raises(IntegrityError), transaction.atomic():
        Message.objects.create(
            conversation=conversation,
            number=3,
            role="assistant",
            status="streaming",
            created_at=conversation.created_at,
        )


def silence(writer):
    silent = make_writer(silent=60)
    heard = Writer.objects.get(pk=silent).heartbeat_at
    Writer.objects.filter(pk=writer).update(heartbeat_at=heard)


class TestSeveralAtOnce:
    """On threads with connections of their own, let go at the same moment."""

    @pytest.fixture
    def alice(self, database):
        return make_user("alice")

    def at_once(self, *calls):
        """What each call returned, or the exception it raised."""
        barrier = Barrier(len(calls))

        def run(call):
            connection.ensure_connection()
            barrier.wait(PATIENCE)
            try:
                return call()
            finally:
                connection.close()

        with ThreadPoolExecutor(len(calls)) as threads:
            running = [threads.submit(run, call) for call in calls]
        return [future.exception() or future.result() for future in running]

    def test_of_four_questions_one_is_taken_and_none_half(self, alice):
        conversation = make_conversation(alice)
        writers = [make_writer() for _ in range(4)]

        results = self.at_once(
            *(
                lambda writer=writer: ask(alice, conversation, writer=writer)
                for writer in writers
            )
        )

        refused = [r for r in results if isinstance(r, AnswerInProgress)]
        assert len(refused) == 3, results
        numbers = Message.objects.order_by("number").values_list("number", flat=True)
        assert list(numbers) == [1, 2]

    def test_numbers_stay_dense_over_many_rounds(self, alice):
        conversation = make_conversation(alice)
        writer = make_writer()
        for _ in range(5):
            results = self.at_once(
                *[lambda: ask(alice, conversation, writer=writer)] * 4
            )
            (turn,) = (r for r in results if not isinstance(r, AnswerInProgress))
            close_turn(turn=turn, writer=writer, outcome=DONE)

        numbers = Message.objects.order_by("number").values_list("number", flat=True)
        assert list(numbers) == list(range(1, 11))

    def test_the_first_questions_of_a_new_process_all_begin(self, alice):
        writer = uuid.uuid4()
        conversations = [make_conversation(alice) for _ in range(4)]

        turns = self.at_once(
            *(
                lambda each=each: ask(alice, each, writer=writer)
                for each in conversations
            )
        )

        assert [getattr(turn, "message_id", turn) for turn in turns] == [2] * 4
        assert Writer.objects.count() == 1

    def test_deleting_while_the_answer_ends_leaves_nothing(self, alice):
        from conversations.lifecycle import delete

        writer = make_writer()
        for _ in range(10):
            conversation = make_conversation(alice)
            turn = ask(alice, conversation, writer=writer)

            closed, deleted = self.at_once(
                lambda turn=turn: close_turn(turn=turn, writer=writer, outcome=DONE),
                lambda pk=conversation.pk: delete(owner=alice, conversation_id=pk),
            )

            assert closed in (True, False), closed
            assert deleted is None
            assert not Message.objects.exists()
