"""The demo's two upstreams: a plain one, and one over TLS that notes the token it gets."""

from __future__ import annotations

import http.server
import ssl
import threading
from pathlib import Path


class Upstream:
    """A small HTTP server on a free port of loopback, in a thread."""

    def __init__(self, chain: Path | None = None, key: Path | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        seen = self.seen

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append(
                    {"path": self.path} | {name.lower(): value for name, value in self.headers.items()}
                )
                self.send_response(200)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"ok\n")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                """Say nothing: the demo shows what it saw."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        if chain is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
