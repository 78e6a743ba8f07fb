"""A sealed site with every kind of key and a token."""

from __future__ import annotations

import http.server
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

from support.pki import Authority, new_key, pem
from support.product import unlatch

TOKEN = "tok-4f6b1d0c-1a2b-4c3d-8e9f-a0b1c2d3e4f5"
KINDS = ("p256", "rsa", "ed25519", "p384")

CONFIG = """\
unlock: {bundle: pay.jwe, gates: [@gate@], wait: 60s}
listeners:
  - bind: ["127.0.0.1:@port@"]
    certificates:
      - {chain: p256.pem, key: "sealed:p256"}
      - {chain: rsa.pem, key: "sealed:rsa"}
      - {chain: ed25519.pem, key: "sealed:ed25519"}
      - {chain: p384.pem, key: "sealed:p384"}
routes:
  - match: {path: /psp/*}
    upstream: psp
    strip_prefix: /psp
    inject: {header: Authorization, secret: psp, callers: ["127.0.0.0/8"]}
  - upstream: app
upstreams:
  app: {servers: ["127.0.0.1:@app@"]}
  psp: {servers: ["127.0.0.1:@psp@"], tls: {name: localhost, ca: ca.pem}}
workers: 1
timeouts: {drain: 2s}
admin: {socket: admin.sock, http: "127.0.0.1:@health@"}
"""

RULES = """\
psp:
  upstream: https://localhost:@psp@
  ca: ca.pem
  methods: [GET]
  paths: [/v1/*]
  place: {header: Authorization, scheme: bearer}
  callers: ["127.0.0.0/8"]
"""


class TokenTaker:
    """A TLS upstream that notes each request."""

    def __init__(self, chain: Path, key: Path) -> None:
        self.seen: list[tuple[str, str | None]] = []
        seen = self.seen

        class Note(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append((self.path, self.headers.get("Authorization")))
                self.send_response(200)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"psp")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Note)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(slots=True)
class Site:
    """The sealed folder, its authority and upstreams."""

    folder: Path
    authority: Authority
    app: int
    psp: TokenTaker
    gate: str
    keys: dict[str, bytes] = field(default_factory=dict)

    @property
    def config(self) -> str:
        facts = {"@app@": self.app, "@psp@": self.psp.port, "@gate@": self.gate}
        text = CONFIG
        for mark, value in facts.items():
            text = text.replace(mark, str(value))
        return text


def host_of(kind: str) -> str:
    """The name of one kind's certificate."""
    return "localhost" if kind == "p256" else f"{kind}.localhost"


def seal_site(folder: Path, url: str, thumbprint: str, app: int) -> Site:
    """Make keys, certificates and the file, sealed to a Tang server's or workload's address."""
    authority = Authority(folder)
    psp_key = new_key("p256")
    (folder / "psp.key").write_bytes(pem(psp_key))
    authority.issue(folder / "psp.pem", ["localhost"], psp_key.public_key())
    site = Site(folder, authority, app, TokenTaker(folder / "psp.pem", folder / "psp.key"), thumbprint)
    arguments = []
    for kind in KINDS:
        key = new_key(kind)
        site.keys[kind] = pem(key)
        (folder / f"{kind}.key").write_bytes(site.keys[kind])
        authority.issue(folder / f"{kind}.pem", [host_of(kind)], key.public_key())
        arguments += ["--key", f"{kind}={kind}.key"]
    (folder / "token").write_text(TOKEN)
    (folder / "rules.yaml").write_text(RULES.replace("@psp@", str(site.psp.port)))
    result = unlatch(
        *("seal", "--to", url, "--thp", thumbprint, "--workload", "pay", *arguments),
        *(
            "--names",
            ",".join(map(host_of, KINDS)),
            "--token",
            "psp=@token",
            "--use",
            "rules.yaml",
            "--out",
            "pay.jwe",
        ),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr.decode()
    return site
