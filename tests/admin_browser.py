"""A browser without scripts, before the admin of a served project."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2

from tests.patience import PATIENCE


class AdminBrowser:
    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def read(self, path: str) -> str:
        """A page."""
        return self._client.get(path).raise_for_status().text

    def send(self, path: str, fields: Mapping[str, str]) -> str:
        """The page that comes of sending the form at `path`."""
        found = re.search(r'csrfmiddlewaretoken" value="(\w+)"', self.read(path))
        assert found
        body = {**fields, "csrfmiddlewaretoken": found[1]}
        sent = self._client.post(path, data=body, follow_redirects=True)
        return sent.raise_for_status().text


@contextmanager
def signed_in(
    base_url: str, username: str, password: str, language: str = "en"
) -> Iterator[AdminBrowser]:
    headers = {"Accept-Language": language}
    with httpx2.Client(
        base_url=base_url,
        headers=headers,
        timeout=PATIENCE,
        trust_env=False,
        verify=False,
    ) as client:
        browser = AdminBrowser(client)
        given = {"username": username, "password": password}
        browser.send("/admin/login/?next=/admin/", given)
        yield browser
