"""A TLS upstream that keeps every request as it came, and may ask who connects."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BODY = b"noted"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    peer: str | None
    """The common name of the client certificate."""

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: str) -> str:
        """The only value of a header."""
        (value,) = self.values(name)
        return value


class Recorder:
    """Answers every request with 200 from a thread of its own."""

    def __init__(self, chain: Path, key: Path, *, client_ca: Path | None = None) -> None:
        self.seen: list[Seen] = []
        seen = self.seen

        class Note(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def note(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append(Seen(self.command, self.path, self.headers.items(), body, _peer(self.connection)))
                self.send_response(200)
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                self.wfile.write(BODY)

            do_GET = do_POST = do_PUT = do_DELETE = note  # noqa: N815 - the base class names them

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client without a certificate is no error of the test's."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        self._server = Server(("127.0.0.1", 0), Note)
        # In the connection's own thread: a handshake that stalls holds nobody up.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _peer(connection: object) -> str | None:
    assert isinstance(connection, ssl.SSLSocket)
    certificate: dict[str, Any] | None = None
    with contextlib.suppress(ValueError):
        certificate = connection.getpeercert()
    subject = (certificate or {}).get("subject", ())
    return next((value for part in subject for name, value in part if name == "commonName"), None)
