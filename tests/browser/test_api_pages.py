"""Swagger UI and Redoc, in a browser, from this server alone."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import Chromium
from tests.conftest import Served
from tests.test_openapi import operations

# Those of one tag stand under it, each with its method and path.
SHOWN = {
    "/api/docs": "document.querySelectorAll('.opblock').length",
    "/api/redoc": "document.querySelectorAll('[id*=\"/operation/\"]').length",
}
LOCAL = ("data:", "blob:", "about:")


@pytest.mark.parametrize("path", SHOWN)
def test_a_page_shows_every_operation_and_loads_nothing_from_elsewhere(
    path: str, browser: Chromium, server: Served, tmp_path: Path
) -> None:
    count = len(list(operations()))
    browser.heard.clear()
    with browser.page("about:blank") as page:
        page.call("Network.enable")
        page.call("Page.navigate", url=server.base_url + path)
        page.wait_until(f"{SHOWN[path]} >= {count}")
        shown = page.run(SHOWN[path])
        shot = page.call("Page.captureScreenshot")

    assert shown == count
    asked = {
        told["requestId"]: told["request"]["url"]
        for told in heard(browser, "requestWillBeSent")
    }
    refused = {
        told["requestId"]
        for told in heard(browser, "loadingFailed")
        if told.get("blockedReason") == "csp"
    }
    assert server.base_url + "/api/schema" in asked.values()
    for request, url in asked.items():
        # Redoc would like a picture of its makers' from their server.
        assert url.startswith((server.base_url, *LOCAL)) or request in refused, url
    kept = Path(os.environ.get("SCREENSHOTS", tmp_path))
    name = path.rpartition("/")[2]
    (kept / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def heard(browser: Chromium, event: str) -> list[Any]:
    """What the browser told of the network under this name."""
    name = f"Network.{event}"
    return [told["params"] for told in browser.heard if told.get("method") == name]
