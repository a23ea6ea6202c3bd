"""Hours of answers: counted once when they are over, anew while they are not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations.hours import HOUR, last_hours
from conversations.models import AnswerHour, Message
from tests.conftest import make_user
from tests.conversations.conftest import make_conversation, make_turns
from tests.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("same_hour")


@pytest.fixture
def ended(database):
    """Makes an answer that ended some hours ago."""
    alice = make_user("alice")

    def make(hours_ago, *, status="complete", error_code="", wait=None):
        conversation = make_conversation(alice)
        make_turns(conversation, "Text")
        at = timezone.now().replace(minute=0, second=0, microsecond=1)
        at -= HOUR * hours_ago
        begun = at - timedelta(seconds=20)
        first = None if wait is None else begun + timedelta(milliseconds=wait)
        conversation.messages.update(finished_at=at)
        conversation.messages.filter(role="assistant").update(
            status=status, error_code=error_code, created_at=begun, first_token_at=first
        )
        return conversation

    return make


def test_an_hour_has_its_answers_by_status_and_code_and_how_long_they_took(ended):
    for wait in range(100, 2100, 100):
        ended(3, wait=wait)
    ended(3, status="failed", error_code="provider_busy")
    ended(0, status="stopped")

    hours = last_hours()

    assert len(hours) == 24
    third = hours[-4]
    assert third.statuses == {"complete": 20, "failed": 1}
    assert third.failures == {"provider_busy": 1}
    assert (third.first_token_p50_ms, third.first_token_p95_ms) == (1000, 1900)
    assert hours[-1].statuses == {"stopped": 1}
    assert sum(sum(hour.statuses.values()) for hour in hours) == 22


@pytest.mark.parametrize("wait", [-7_200_000, 2**41])
def test_what_no_answer_takes_is_no_measure(ended, wait):
    ended(3, wait=300)
    ended(3, wait=wait)

    last_hours()

    third = last_hours()[-4]
    assert third.statuses == {"complete": 2}
    assert (third.first_token_p50_ms, third.first_token_p95_ms) == (300, 300)


def test_what_is_over_is_kept_and_what_is_not_is_counted_anew(ended):
    gone = ended(3)
    last_hours()
    gone.delete()
    ended(0)

    hours = last_hours()

    assert hours[-4].statuses == {"complete": 1}
    assert hours[-1].statuses == {"complete": 1}
    kept = AnswerHour.objects.order_by("hour").values_list("hour", flat=True)
    assert len(kept) in {22, 23}
    # The running hour is never kept.
    assert max(kept) < hours[-1].hour


def test_hours_without_a_process_are_filled_in_between(ended):
    last_hours()
    AnswerHour.objects.filter(hour=last_hours()[5].hour).delete()
    ended(18)

    assert last_hours()[5].statuses == {"complete": 1}


def test_what_is_kept_costs_two_statements_however_much_there_is(ended):
    last_hours()
    for answers in (1, 20):
        for _ in range(answers):
            ended(2)
        with CaptureQueriesContext(
            connection,
        ) as seen:
            last_hours()

        assert len(seen) in {2, 3}
        # PostgreSQL is read by a cursor.
        first, second = [query["sql"].split()[0] for query in seen][:2]
        assert (first, second.replace("DECLARE", "SELECT")) == ("SELECT", "SELECT")


def test_processes_that_keep_an_hour_at_once_agree(ended):
    ended(3)
    barrier = Barrier(4)

    def look(_):
        connection.ensure_connection()
        barrier.wait(PATIENCE)
        try:
            return [(hour.hour, hour.statuses) for hour in last_hours()]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(look, range(4)))

    assert all(each == seen[0] for each in seen)
    assert AnswerHour.objects.filter(statuses={"complete": 1}).count() == 1
    assert Message.objects.count() == 2
