"""Whoever sits on the wire between the proxy and the gate: passes everything on, keeps it, and can play it again."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from dataclasses import dataclass, field

# They belong to one connection; all others are passed on.
OWN_HEADERS = {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"}
GATE_SECONDS = 60.0
RECEIPT = 202


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Eavesdropper:
    """An HTTP server before the gate. While `replaying`, it answers with what it heard and asks nobody."""

    def __init__(self, gate: int) -> None:
        self.heard: list[Exchange] = []
        self.replaying = False
        tap = self

        class Wire(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):  # the demo ends while somebody still waits
                    super().handle_one_request()

            def do_GET(self) -> None:
                self._pass(None)

            def do_POST(self) -> None:
                self._pass(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def _pass(self, body: bytes | None) -> None:
                sent = {
                    name: value for name, value in self.headers.items() if name.lower() not in OWN_HEADERS
                }
                exchange = tap.again(self.command) if tap.replaying else None
                if exchange is None:
                    exchange = tap.carry(gate, self.command, self.path, body, sent)
                self.send_response(exchange.status)
                for name, value in exchange.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(exchange.body)))
                self.end_headers()
                self.wfile.write(exchange.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                """Say nothing: the demo shows what it saw."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wire)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens, in the gate's place."""
        return int(self._server.server_address[1])

    @property
    def answer(self) -> Exchange | None:
        """The gate's answer to the point, which opened the proxy."""
        return next((one for one in self.heard if "/wait/" in one.path and b'"kty"' in one.body), None)

    def again(self, method: str) -> Exchange | None:
        """What was answered before: the receipt to a question, the answer to a poll."""
        if method == "GET":
            return self.answer
        return next((one for one in self.heard if one.method == "POST" and one.status == RECEIPT), None)

    def carry(
        self, gate: int, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Exchange:
        """Ask the gate and keep the exchange."""
        link = http.client.HTTPConnection("127.0.0.1", gate, timeout=GATE_SECONDS)
        with contextlib.closing(link):
            link.request(method, path, body=body, headers=headers)
            reply = link.getresponse()
            kept = {name: value for name, value in reply.getheaders() if name.lower() not in OWN_HEADERS}
            exchange = Exchange(method, path, reply.status, reply.read(), kept)
        self.heard.append(exchange)
        return exchange

    def close(self) -> None:
        """Hang up."""
        self._server.shutdown()
        self._server.server_close()
