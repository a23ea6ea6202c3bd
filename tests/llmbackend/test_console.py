"""The admin's own pages: where it starts, and what is known of providers."""

from __future__ import annotations

import re
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import AuditEntry, User
from conversations.hours import last_hours
from conversations.models import Message, Usage
from tests.admin_browser import signed_in
from tests.conftest import PASSWORD, make_user
from tests.conversations.conftest import make_conversation, make_turns

pytestmark = pytest.mark.usefixtures("same_hour")

START = "/admin/"


@pytest.fixture
def browser(server):
    """A browser in which an administrator has logged in."""
    root = User.objects.create_superuser("root", password=PASSWORD)
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


def make_failure(owner):
    """An answer that failed a while ago, and one that was complete."""
    conversation = make_conversation(owner)
    make_turns(conversation, "Fine", "")
    now = timezone.now()
    answers = conversation.messages.filter(role="assistant")
    first = now + timedelta(milliseconds=321)
    answers.update(created_at=now, first_token_at=first, finished_at=now)
    last = answers.order_by("number").last()
    assert last is not None
    last.status, last.error_code = Message.Status.FAILED, "provider_busy"
    last.save()


def svgs(page):
    found = re.findall(r"<svg viewBox.*?</svg>", page, re.DOTALL)
    return [ElementTree.fromstring(svg) for svg in found]  # noqa: S314  It is ours.


class TestStart:
    def test_shows_how_the_day_went(self, browser):
        alice = make_user("alice")
        make_failure(alice)
        today = timezone.now().date()
        Usage.objects.create(
            owner=alice, day=today, model="m", prompt_tokens=4711, completion_tokens=42
        )

        page = browser.get(START).content.decode()

        assert "2 answers ended in the last 24 hours" in page
        assert "provider_busy" in page
        assert "<td>321</td>" in page
        assert "<td>4711</td><td>42</td>" in page

    def test_every_chart_is_told_in_words_and_in_a_table(self, browser):
        make_failure(make_user("alice"))

        page = browser.get(START).content.decode()

        drawn = svgs(page)
        assert len(drawn) >= 5
        for svg in drawn:
            ids = [svg.attrib[f"aria-{how}"] for how in ("labelledby", "describedby")]
            texts = {child.attrib.get("id"): child.text for child in svg}
            assert svg.attrib["role"] == "img"
            assert all(texts[name] for name in ids)
            assert all(f'id="{name}"' in page for name in ids)
        figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
        assert len(figures) == 5
        assert all("<table" in figure for figure in figures)

    def test_costs_the_same_however_much_there_is(self, browser):
        alice = make_user("alice")
        browser.get(START)
        counts = []
        for number in (1, 30):
            for _ in range(number):
                make_failure(alice)
            last_hours()
            with CaptureQueriesContext(connection) as seen:
                assert browser.get(START).status_code == 200
            counts.append(len(seen))

        assert counts[0] == counts[1]

    def test_shows_nothing_to_staff_without_permissions(self, server):
        User.objects.create_user("bob", password=PASSWORD, is_staff=True)
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(User.objects.get(username="bob"))

        page = browser.get(START).content.decode()

        assert "<svg viewBox" not in page

    def test_logging_out_is_noted(self, browser):
        browser.get("/admin/logout/")  # Which does nothing.
        assert not AuditEntry.objects.filter(action="logged_out").exists()

        browser.post("/admin/logout/")

        assert AuditEntry.objects.filter(action="logged_out").count() == 1


class TestProviders:
    PAGE = "/admin/providers/"

    @pytest.fixture
    def over_http(self, server):
        User.objects.create_superuser("root", password=PASSWORD)
        with signed_in(server.base_url, "root", PASSWORD) as browser:
            yield browser

    def test_says_what_is_configured_and_no_key(self, over_http):
        page = over_http.read(self.PAGE)

        assert "http://127.0.0.1:9/v1" in page
        assert "gpt*" in page
        assert "fake-embedding" in page
        assert "there is one" in page
        assert "sk-configured-key" not in page

    def test_asks_on_demand_alone(self, over_http, provider):
        over_http.read(self.PAGE)
        assert not provider.requests

        page = over_http.send(self.PAGE, {})

        assert [request.path for request in provider.requests] == ["/v1/models"]
        assert 'class="state' in page
        assert "conversations must bring one" in page
        assert "sk-configured-key" not in page

    def test_is_for_superusers(self, server):
        bob = User.objects.create_user("bob", password=PASSWORD, is_staff=True)
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(bob)

        assert browser.get(self.PAGE).status_code == 403
        assert browser.post(self.PAGE).status_code == 403
        assert "providers/" not in browser.get(START).content.decode()
