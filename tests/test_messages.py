"""The admin speaks Chinese, too: all of it, and what is compiled is what is written."""

from __future__ import annotations

import gettext
import re
from typing import Any

import pytest
from babel.messages.pofile import read_po
from django.apps import apps
from django.utils.functional import Promise

from accounts.models import User
from scripts import messages
from tests.admin_browser import signed_in
from tests.conftest import PASSWORD, Client, Served

OURS = ("accounts", "conversations", "rag")
PLACEHOLDER = re.compile(r"%\(\w+\)[ds]")
DO = "run `make messages`, and translate what it names in locale/"


def written() -> dict[Any, tuple[str, ...]]:
    with messages.PO.open("rb") as file:
        catalogue = read_po(file, locale="zh_Hans")
    return {m.id: messages.as_tuple(m.string) for m in catalogue if m.id}


def test_the_catalogue_has_what_the_sources_say_and_no_more() -> None:
    assert set(written()) == {m.id for m in messages.in_step() if m.id}, DO


def test_every_message_is_translated_with_its_placeholders() -> None:
    for message, translations in written().items():
        needed = PLACEHOLDER.findall(messages.as_tuple(message)[-1])
        for translation in translations:
            assert translation, (message, DO)
            assert sorted(PLACEHOLDER.findall(translation)) == sorted(needed), message


def test_what_is_compiled_is_what_is_written() -> None:
    with messages.MO.open("rb") as file:
        compiled = gettext.GNUTranslations(file)

    for message, translations in written().items():
        first, *more = messages.as_tuple(message)
        said = compiled.ngettext(first, more[0], 2) if more else compiled.gettext(first)
        assert said == translations[0], DO


def test_every_model_and_field_has_a_name_to_translate() -> None:
    for model in apps.get_models():
        if model._meta.app_label not in OURS:
            continue
        assert isinstance(model._meta.verbose_name, Promise), model
        for field in model._meta.get_fields():
            name = getattr(field, "verbose_name", None)
            if name is not None and name != "ID":
                assert isinstance(name, Promise), field


@pytest.mark.parametrize(
    ("preferred", "language", "said"),
    [
        ("zh-CN,zh;q=0.9", "zh-hans", "最近 24 小时的回答"),
        ("de,en;q=0.5", "en", "Answers of the last 24 hours"),
        ("", "en", "Answers of the last 24 hours"),
    ],
)
def test_pages_are_in_the_browsers_language(
    server: Served, preferred: str, language: str, said: str
) -> None:
    User.objects.create_superuser("root", password=PASSWORD)

    with signed_in(server.base_url, "root", PASSWORD, preferred) as browser:
        page = browser.read("/admin/")

    assert f'<html lang="{language}"' in page
    assert said in page


def test_the_api_is_in_english_whatever_the_browser_prefers(
    server: Served, anonymous: Client
) -> None:
    User.objects.create_superuser("root", password=PASSWORD)
    with signed_in(server.base_url, "root", PASSWORD, "zh-CN") as browser:
        browser.read("/admin/")

    for body in ({}, {"username": "root", "password": "wrong"}):
        headers = {"Accept-Language": "zh-CN"}
        answer = anonymous.post("/api/users/login", json=body, headers=headers)
        assert answer.json()["error"].isascii()
