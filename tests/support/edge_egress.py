"""Edge before egress before an upstream that speaks TLS: the whole way of a token, with a stand-in guard."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from support.edge_bench import Bench, Reply, issue
from support.edge_process import Program
from support.edge_signer import Signer
from support.edge_upstream import Upstream
from support.pki import Authority, new_key, pem

NAME = "psp.example"
TOKEN = b"tok-4ba9a07c85f1"
ROUTE = {
    "path": "/psp/*",
    "upstream": "psp",
    "strip_prefix": "/psp",
    "inject": {"id": 1, "header": "Authorization"},
}


class TlsIdentity:
    """A server certificate for `names` and the CA that clients trust."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.authority = Authority(folder, "psp-ca")
        key = new_key("p256")
        path = folder / "psp.pem"
        path.write_text(
            pem(key).decode() + issue(self.authority, key, [x509.DNSName(name) for name in names])
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(path)

    @property
    def ca(self) -> str:
        return self.authority.path.read_text()


@dataclass
class Injection:
    """``with Injection(psp, ca) as way``: `way.bench` is edge, `way.egress` the process behind it."""

    psp: Upstream
    ca: str
    name: str = NAME
    header: str = "Authorization"
    scheme: str = "bearer"
    token: bytes = TOKEN
    client_ca: str | None = None
    computed: list[tuple[str, str]] | None = None
    """The headers that guard gives; none: the token."""
    wanted: dict[str, Any] = field(default_factory=dict)
    """What guard wants to know: `others`, `body`, `covers`."""
    limits: dict[str, int] = field(default_factory=dict)
    timeouts: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.signer = Signer(tokens={1: self.token}, headers={1: self.computed or []})
        self._stack.callback(self.signer.close)
        edge_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._edge_end = edge_end
        self.egress = self.start_egress(egress_end)
        self._stack.callback(lambda: self.stop_egress())
        others = {"others": self.wanted["others"]} if "others" in self.wanted else {}
        route = {**ROUTE, "inject": {"id": 1, "header": self.header} | others}
        self.bench = self._stack.enter_context(
            Bench(
                routes=[route],
                servers={"psp": [self.psp.address]},
                egress=edge_end,
                client_ca=self.client_ca,
                timeouts=self.timeouts,
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def egress_config(self) -> dict[str, Any]:
        """What the supervisor tells egress, but for the sockets."""
        route = {"id": 1, "upstream": "psp", "header": self.header, "scheme": self.scheme} | self.wanted
        route |= {"ask": "authorize"} if self.computed is not None else {}
        return {
            "role": "egress",
            "routes": [route],
            "upstreams": {"psp": {"servers": [self.psp.address], "tls": {"name": self.name, "ca": self.ca}}},
            "timeouts_ms": self.timeouts,
            "limits": self.limits,
        }

    def start_egress(self, edge: socket.socket) -> Program:
        """A new egress on this end of the socket to edge."""
        guard = self.signer.connect()
        sockets = {"guard": [guard.fileno()], "edge": edge.fileno()}
        with edge:
            # Nobody else may hold egress's end: edge must see it go.
            return Program.start(self.egress_config() | sockets, [guard, edge])

    def replace_egress(self) -> None:
        """As the supervisor after a crash: a new process, and a new socket for edge."""
        self.egress.process.kill()
        self.egress.process.wait()
        self.stop_egress()
        edge_end, egress_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with edge_end:
            self.egress = self.start_egress(egress_end)
            self.bench.program.order({"do": "egress"}, [edge_end.fileno()])
            assert self.bench.program.event() == {"event": "replaced"}

    def open_stream(self) -> socket.socket:
        """A stream to egress, as edge opens one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(self._edge_end, [b"c"], [theirs.fileno()])
        ours.settimeout(30)
        return ours

    def stop_egress(self) -> str:
        """End egress; what it wrote to standard error."""
        return "" if self.egress.log.closed else self.egress.stop()

    def get(self, path: str = "/psp/v1/charges", fields: str = "") -> Reply:
        """One request on a connection of its own."""
        with self.bench.connect() as client:
            return client.ask(f"GET {path} HTTP/1.1\r\nHost: pay.example\r\n{fields}\r\n")
