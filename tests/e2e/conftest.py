"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest


class Answer(http.server.BaseHTTPRequestHandler):
    """Says ok."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[int]:
    """The port of a plain HTTP server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join()
