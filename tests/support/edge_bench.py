"""Edge in its place: a fake supervisor around it, a stand-in guard behind it, TLS clients before it."""

from __future__ import annotations

import contextlib
import copy
import socket
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.edge_process import Program, listening_sockets
from support.edge_signer import PrivateKey, Signer
from support.pki import Authority, _dated, new_key, pem

ALGORITHMS = {"p256": "ecdsa-p256", "rsa": "rsa-2048", "ed25519": "ed25519"}
FALLBACK = 100
TICKETS = (7, 3600, b"\x11" * 32, b"\x22" * 32)


def issue(
    authority: Authority, key: PrivateKey, names: Sequence[x509.GeneralName], *, client: bool = False
) -> str:
    """A leaf for these names, as PEM."""
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    builder = (
        _dated(subject, authority.certificate.subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class Bench:
    """``with Bench(...) as bench``: edge runs; `bench.connect()` is a client, `bench.program` the process."""

    routes: list[dict[str, Any]] = field(default_factory=lambda: [{"upstream": "app"}])
    servers: dict[str, list[str]] = field(default_factory=dict)
    certificates: list[tuple[str, list[str]]] = field(default_factory=lambda: [("p256", ["pay.example"])])
    workers: int = 1
    timeouts: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    client_ca: str | None = None
    tickets: bool = True
    access_log: bool | socket.socket = False
    egress: socket.socket | None = None
    listens: bool = True
    slow: Sequence[int] = ()
    slow_threads: int = 4
    fallback: tuple[int, str] | None = None
    """A slow key and the kind of key that stands in for it, as number 100."""
    becomes: str | None = None
    runs_as: int | None = None

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.authority = Authority(self.folder)
        self.signer = Signer(ticket_keys=TICKETS if self.tickets else None)
        self._stack.callback(self.signer.close)
        certificates: list[dict[str, Any]] = []
        for number, (kind, names) in enumerate(self.certificates, 1):
            key = new_key(kind)
            self.signer.keys[number] = key
            chain = issue(self.authority, key, [x509.DNSName(name) for name in names])
            certificates.append({"chain": chain, "key": number, "algorithm": ALGORITHMS[kind]})
            if number in self.slow:
                certificates[-1]["slow"] = True
        if self.fallback is not None:
            number, kind = self.fallback
            self.signer.keys[FALLBACK] = key = new_key(kind)
            chain = issue(
                self.authority, key, [x509.DNSName(name) for name in self.certificates[number - 1][1]]
            )
            stand_in = {"chain": chain, "key": FALLBACK, "algorithm": ALGORITHMS[kind]}
            certificates[number - 1]["fallback"] = stand_in
        self.listening = listening_sockets(self.workers, listens=self.listens)
        guard = [self.signer.connect() for _ in range(self.workers)]
        slow = [self.signer.connect() for _ in range(self.slow_threads if self.slow else 0)]
        log = self.access_log if isinstance(self.access_log, socket.socket) else None
        kept = [*self.listening, *guard, *slow, *(one for one in (self.egress, log) if one)]
        listener = {
            "name": "main",
            "sockets": [one.fileno() for one in self.listening],
            "certificates": certificates,
            "client_ca": self.client_ca,
        }
        config = {
            "role": "edge",
            "workers": self.workers,
            "node": "test",
            "guard": [one.fileno() for one in guard],
            "guard_slow": [one.fileno() for one in slow],
            "egress": self.egress.fileno() if self.egress else None,
            "listeners": [listener],
            "routes": self.routes,
            "upstreams": {name: {"servers": servers, "tls": None} for name, servers in self.servers.items()},
            "timeouts_ms": self.timeouts,
            "limits": self.limits,
            "access_log": log.fileno() if log else self.access_log,
        }
        self.program = Program.start(config, kept, becomes=self.becomes, runs_as=self.runs_as)
        self._stack.callback(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        if not self.program.log.closed:
            self.program.stop()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listening[0].getsockname()
        return host, port

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the configuration, to change and reload."""
        return copy.deepcopy(self.program.config)

    def context(self) -> ssl.SSLContext:
        """A client's TLS settings that trust this bench."""
        return ssl.create_default_context(cafile=str(self.authority.path))

    def connect(
        self,
        name: str = "pay.example",
        *,
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Client:
        """A client after its handshake."""
        raw = socket.create_connection(self.address, timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            tls = (context or self.context()).wrap_socket(raw, server_hostname=name, session=session)
        except BaseException:
            raw.close()
            raise
        return Client(tls)

    def replace_guard(self) -> None:
        """New sockets to guard for workers and slow threads, as after guard's restart."""
        count = self.workers + len(self.config["guard_slow"])
        fresh = [self.signer.connect() for _ in range(count)]
        self.program.order({"do": "guard"}, [one.fileno() for one in fresh])
        assert self.program.event() == {"event": "replaced"}
        for one in fresh:
            one.close()

    def get(self, path: str = "/", *, name: str = "pay.example") -> Reply:
        """One request on a connection of its own."""
        with self.connect(name) as client:
            return client.ask(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n")


@dataclass
class Reply:
    """A response."""

    status: int
    head: str
    body: bytes
    closed: bool = False

    def values(self, name: str) -> list[str]:
        lines = [line.partition(":") for line in self.head.split("\r\n")[1:]]
        return [value.strip() for field_name, _, value in lines if field_name.lower() == name.lower()]


@dataclass
class Client:
    """A TLS client that sends any bytes and reads responses."""

    tls: ssl.SSLSocket
    buffer: bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()

    def send(self, data: bytes | str) -> None:
        self.tls.sendall(data.encode() if isinstance(data, str) else data)

    def ask(self, data: bytes | str, *, to_head: bool = False) -> Reply:
        """Send and read one response."""
        self.send(data)
        return self.reply(to_head=to_head)

    def reply(self, *, to_head: bool = False) -> Reply:
        """The next response; an early end is an EOFError."""
        head = self._until(b"\r\n\r\n").decode("latin-1")
        reply = Reply(int(head.split(" ", 2)[1]), head, b"")
        reply.closed = reply.values("connection") == ["close"]
        if to_head or reply.status < 200 or reply.status in {204, 304}:
            return reply
        if reply.values("transfer-encoding"):
            while size := int(self._until(b"\r\n"), 16):
                reply.body += self.exactly(size + 2)[:-2]
            assert self._until(b"\r\n") == b"\r\n"
        elif reply.values("content-length"):
            reply.body = self.exactly(int(reply.values("content-length")[0]))
        else:
            reply.body = self.rest()
        return reply

    def rest(self) -> bytes:
        """Everything until the other side closes; an end without close_notify is an SSLEOFError."""
        while self._more():
            pass
        found, self.buffer = self.buffer, b""
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._more():
                raise EOFError(self.buffer)
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self._more():
                raise EOFError(self.buffer)
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    def _more(self) -> bool:
        data = self.tls.recv(262144)
        self.buffer += data
        return bool(data)


def client_certificate(folder: Path, authority: Authority, names: Sequence[x509.GeneralName]) -> Path:
    """A client's key and certificate in one file."""
    key = new_key("p256")
    path = folder / "client.pem"
    path.write_text(pem(key).decode() + issue(authority, key, names, client=True))
    return path
