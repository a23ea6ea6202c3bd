"""What the admin's start page shows: how the last day went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from django.db.models import Count
from django.http import HttpRequest
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from conversations.hours import last_hours
from conversations.models import AnswerHour, Message
from conversations.usage import tokens_by_day
from llmbackend.console.charts import Chart, Series, lines, rows, stacked
from rag.models import Document

DAYS = 14
COLOURS = {
    Message.Status.COMPLETE: "good",
    Message.Status.STOPPED: "still",
    Message.Status.TRUNCATED: "warn",
    Message.Status.INTERRUPTED: "odd",
    Message.Status.FAILED: "bad",
}


def charts(request: HttpRequest) -> Iterator[SafeString]:
    """Those about what the visitor may see."""
    if request.user.has_perm("conversations.view_message"):
        hours = last_hours()
        yield answers(hours)
        yield failures(hours)
        yield first_tokens(hours)
        yield tokens()
    if request.user.has_perm("rag.view_document"):
        yield documents()


def answers(hours: Sequence[AnswerHour]) -> SafeString:
    series = [
        Series(
            name=str(status.label),
            colour=colour,
            values=[hour.statuses.get(status, 0) for hour in hours],
        )
        for status, colour in COLOURS.items()
    ]
    total = sum(each.total for each in series)
    told = _("%(total)d answers ended in the last 24 hours: %(parts)s.")
    parts = ", ".join(f"{each.name} {each.total}" for each in series)
    chart = Chart(
        name="answers",
        title=_("Answers of the last 24 hours, by status"),
        description=told % {"total": total, "parts": parts},
        corner=_("Hour (UTC)"),
        labels=labels_of(hours),
        series=series,
    )
    return stacked(chart)


def failures(hours: Sequence[AnswerHour]) -> SafeString:
    codes: Counter[str] = Counter()
    for hour in hours:
        codes.update(hour.failures)
    found = codes.most_common()
    title = _("Failures of the last 24 hours, by code")
    page = reverse("admin:conversations_message_changelist")
    chart = Chart(
        name="failures",
        title=title,
        description=title,
        corner=_("Code"),
        labels=[code for code, _count in found],
        series=[
            Series(
                name=_("Answers"),
                colour="bad",
                values=[count for _code, count in found],
            )
        ],
    )
    return rows(chart, links={code: f"{page}?q={code}" for code in codes})


def first_tokens(hours: Sequence[AnswerHour]) -> SafeString:
    p50 = [hour.first_token_p50_ms for hour in hours]
    p95 = [hour.first_token_p95_ms for hour in hours]
    worst = max((value for value in p95 if value is not None), default=None)
    if worst is None:
        described = _("No answer began in the last 24 hours.")
    else:
        described = _("The highest p95 of an hour is %(worst)d ms.") % {"worst": worst}
    chart = Chart(
        name="first-tokens",
        title=_("Time to the first token, in ms"),
        description=described,
        corner=_("Hour (UTC)"),
        labels=labels_of(hours),
        series=[
            Series(name="p50", colour="calm", values=p50),
            Series(name="p95", colour="warn", values=p95),
        ],
    )
    return lines(chart)


def tokens() -> SafeString:
    days = tokens_by_day(DAYS)
    sent, received = sum(day[1] for day in days), sum(day[2] for day in days)
    told = _(
        "%(sent)d tokens were sent to models in %(days)d days, %(received)d received."
    )
    chart = Chart(
        name="tokens",
        title=_("Tokens by day"),
        description=told % {"sent": sent, "received": received, "days": DAYS},
        corner=_("Day (UTC)"),
        labels=[day[0].strftime("%m-%d") for day in days],
        series=[
            Series(name=_("Prompts"), colour="calm", values=[d[1] for d in days]),
            Series(name=_("Answers"), colour="good", values=[d[2] for d in days]),
        ],
    )
    return stacked(chart)


def documents() -> SafeString:
    counts = dict(Document.objects.values_list("status").annotate(Count("pk")))
    title = _("Documents, by state")
    states = Document.Status
    page = reverse("admin:rag_document_changelist")
    chart = Chart(
        name="documents",
        title=title,
        description=title,
        corner=_("State"),
        labels=[str(state.label) for state in states],
        series=[
            Series(
                name=_("Documents"),
                colour="calm",
                values=[counts.get(state, 0) for state in states],
            )
        ],
    )
    links = {str(state.label): f"{page}?status__exact={state}" for state in states}
    return rows(chart, links=links)


def labels_of(hours: Sequence[AnswerHour]) -> list[str]:
    return [date_format(hour.hour, "H:00") for hour in hours]
