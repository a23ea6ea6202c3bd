"""One browser, a site of another origin, and a wire to the server that can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.browser import chromium, site
from tests.browser.chromium import Chromium
from tests.browser.site import Site
from tests.browser.wire import Wire, wire_to
from tests.conftest import Served


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    chromium.require(
        chromium.executable(),
        "no Chromium is installed (Debian, Ubuntu: apt install chromium)",
    )
    with chromium.running(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="session")
def pages() -> Iterator[Site]:
    with site.running() as started:
        yield started


@pytest.fixture
def wire(server: Served) -> Iterator[Wire]:
    with wire_to(int(urlsplit(server.base_url).port or 0)) as made:
        yield made
