"""A web site of another origin than the server's, with pages that call it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LIBRARIES = Path(__file__).parent / "node_modules"
FETCH_EVENT_SOURCE = LIBRARIES / "@microsoft/fetch-event-source/lib/esm"

PAGE = """<!doctype html>
<meta charset="utf-8">
<base href="{server}/">
<script type="importmap">
{{"imports": {{"@microsoft/fetch-event-source": "{site}/library/index.js"}}}}
</script>
<script>
const said = [], faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
const show = (text) => said.push(text);
Object.assign(globalThis, {given});
</script>
<script type="module">
{script}
globalThis.ended = true;
</script>
"""


class Site:
    """Pages at `address`; what they ask for by a path alone is asked of the server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.pages: dict[str, str] = {}

    def page(self, script: str, *, server: str, given: Mapping[str, Any]) -> str:
        """
        The address of a new page that runs `script`, a module, with what is `given`.

        `show` collects in `said`, mistakes are in `faults`; `ended` says that the
        script came to its end.
        """
        path = f"/{len(self.pages)}"
        self.pages[path] = PAGE.format(
            server=server, site=self.address, script=script, given=json.dumps(given)
        )
        return self.address + path

    def find(self, path: str) -> tuple[str, bytes] | None:
        if path in self.pages:
            return "text/html", self.pages[path].encode()
        # The library's modules leave out the ending when they import each other.
        name = path.removeprefix("/library/").removesuffix(".js")
        if path.startswith("/library/") and name in {"index", "fetch", "parse"}:
            return "text/javascript", (FETCH_EVENT_SOURCE / f"{name}.js").read_bytes()
        return None


@contextmanager
def running() -> Iterator[Site]:
    """A site that is up until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = site.find(self.path) or ("text/plain", b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = Site(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
