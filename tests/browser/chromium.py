"""A real browser without a window, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.patience import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


class Page:
    """A tab of the browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the DevTools protocol, for this tab."""
        return self._browser.call(method, session=self._session, **params)

    def run(self, script: str) -> Any:
        """
        What an expression comes to, which must be JSON; a promise is waited for.

        Raises AssertionError with what the page says if it throws.
        """
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        said = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def speak(self, language: str) -> None:
        """Prefer `language` from now on."""
        agent = self.run("navigator.userAgent")
        self._browser.call(
            "Network.setUserAgentOverride",
            session=self._session,
            userAgent=agent,
            acceptLanguage=language,
        )

    def go(self, url: str) -> None:
        """Load `url`, which may lead elsewhere."""
        self.run("document.isLeft = true")
        self._browser.call("Page.navigate", session=self._session, url=url)
        self.wait_until_loaded()

    def wait_until_loaded(self) -> None:
        """Wait for the page after the one that was left."""
        self.wait_until("!document.isLeft && document.readyState === 'complete'")

    def accessible(self) -> list[dict[str, Any]]:
        """What a screen reader is told of the page, node by node."""
        method = "Accessibility.getFullAXTree"
        nodes: list[dict[str, Any]] = self._browser.call(method, session=self._session)[
            "nodes"
        ]
        return nodes

    def screenshot(self, *, width: int = 1280) -> bytes:
        """The whole page as PNG, laid out for a window of that width."""
        self._browser.call(
            "Emulation.setDeviceMetricsOverride",
            session=self._session,
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        shot = self._browser.call(
            "Page.captureScreenshot", session=self._session, captureBeyondViewport=True
        )
        return base64.b64decode(shot["data"])

    def wait_until(self, condition: str) -> None:
        """Ask the page until `condition`, an expression, is true."""
        until = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < until, condition
            time.sleep(0.02)


class Chromium:
    """A running browser; `heard` are the events it told of, of what was enabled."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._numbers = itertools.count(1)
        self.heard: list[Any] = []

    def call(self, method: str, *, session: str | None = None, **params: Any) -> Any:
        """The result of a method of the DevTools protocol."""
        number = next(self._numbers)
        asked = {"id": number, "method": method, "params": params}
        self._devtools.send(
            json.dumps(asked | ({"sessionId": session} if session else {}))
        )
        while True:
            answer = json.loads(self._devtools.recv(PATIENCE))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.heard.append(answer)

    @contextmanager
    def page(self, url: str) -> Iterator[Page]:
        """A tab that has loaded `url`; closed at the end."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        page.wait_until(
            f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        )
        try:
            yield page
        finally:
            self.call("Target.closeTarget", targetId=target)


@contextmanager
def running(directory: Path) -> Iterator[Chromium]:
    """A browser with a new profile in `directory`."""
    command = [str(executable()), *OPTIONS, f"--user-data-dir={directory}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(
            devtools_of(directory, process), proxy=None, max_size=None
        ) as devtools:
            yield Chromium(devtools)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def devtools_of(directory: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the browser, which is just starting, takes commands."""
    written = directory / "DevToolsActivePort"
    until = time.monotonic() + PATIENCE
    while not (written.exists() and written.read_text().count("\n") == 1):
        log = (directory / "log").read_text(errors="replace")
        assert process.poll() is None, log
        assert time.monotonic() < until, log
        time.sleep(0.02)
    port, path = written.read_text().split("\n")
    return f"ws://127.0.0.1:{port}{path}"


def executable() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def require(there: object, reason: str) -> None:
    """Skip the test where something is not there; in CI that is a failure."""
    if there:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
