"""A guard under test and a hand-written client: the protocol of docs/protocol.md section 1, without production code.

Written a second time on purpose: guard must agree with the document, not with our own client.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from support.pki import PrivateKey, pem
from unlatch.memguard.control import guard_program

HEADER = struct.Struct(">BBHII")
ECDSA_P256, ECDSA_P384, ED25519 = 0x0403, 0x0503, 0x0807
PKCS1_SHA256, PSS_SHA256, PSS_SHA384, PSS_SHA512 = 0x0401, 0x0804, 0x0805, 0x0806
SECONDS = 10


class RefusedByGuard(Exception):  # noqa: N818 - names what happened
    """Guard's refusal of a worker's request."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


class ControlFault(Exception):  # noqa: N818 - the protocol's word
    """Guard's refusal of a control request."""

    def __init__(self, fault: dict[str, Any]) -> None:
        super().__init__(str(fault))
        self.kind, self.message = fault["error"], fault["message"]
        self.hint, self.where = fault["hint"], fault["where"]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_key_secret(key: PrivateKey, use: dict[str, Any] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": "private-key", "pem": pem(key).decode()}
    return entry if use is None else entry | {"use": use}


def token_secret(value: str, use: dict[str, Any] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": "token", "value": value}
    return entry if use is None else entry | {"use": use}


def ticket_secret(chain: bytes, epoch: int) -> dict[str, Any]:
    """`epoch`: hours since 1970."""
    use = {"mode": "per-node"}
    return {"kind": "ticket-secret", "epoch": epoch, "chain": base64url(chain), "use": use}


def bundle(secrets: dict[str, dict[str, Any]], set_id: bytes = b"s" * 32) -> bytes:
    """A payload as design and documents describe it."""
    return json.dumps(
        {
            "unlatch": 1,
            "set": base64url(set_id),
            "recipient": {"kty": "EC"},
            "sealers": [],
            "secrets": secrets,
        }
    ).encode()


def seal(payload: bytes, key: bytes, *, raw: bool = False) -> bytes:
    """A compact JWE by jwcrypto: dir, A256GCM (A128GCM for a key of 16 bytes)."""
    header = {"alg": "dir", "enc": "A256GCM" if len(key) == 32 else "A128GCM"}
    if not raw:
        header["cty"] = "application/unlatch+json"
    token = JWE(payload, json.dumps(header))
    token.add_recipient(JWK(kty="oct", k=base64url(key)))
    return str(token.serialize(compact=True)).encode()


def stream_bytes(sealed: bytes, key: bytes, count: int = 1) -> bytes:
    """What unlock writes (section 1.6)."""
    return struct.pack(">II", count, len(sealed)) + key.ljust(32, b"\0") + sealed


def certificate_verify(hash_bytes: int = 32) -> bytes:
    """What a TLS 1.3 server signs."""
    return b"\x20" * 64 + b"TLS 1.3, server CertificateVerify\0" + os.urandom(hash_bytes)


def server_key_exchange() -> bytes:
    """What a TLS 1.2 server signs: randoms and an ephemeral P-256 point."""
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    encoded = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return os.urandom(64) + struct.pack(">BHB", 3, 23, len(encoded)) + encoded


def text_field(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True)
class Caller:
    """Who asked edge. The address as RFC 5952 writes it, empty for a UNIX socket."""

    address: str = "10.2.3.4"
    ca: bytes | None = None
    names: tuple[str, ...] = ()
    uid: int | None = None

    def encode(self) -> bytes:
        flags = (1 if self.ca is not None else 0) | (2 if self.uid is not None else 0)
        data = bytes([flags]) + text_field(self.address)
        if self.ca is not None:
            data += text_field(self.ca) + struct.pack(">H", len(self.names))
            data += b"".join(text_field(name) for name in self.names)
        return data + (struct.pack(">I", self.uid) if self.uid is not None else b"")


class WorkerClient:
    """The worker's end of a socket to guard."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._next_id = 1

    def sign(self, key: int, scheme: int, message: bytes) -> bytes:
        return self.ask(0x01, key, struct.pack(">H", scheme) + message)

    def ticket_keys(self) -> tuple[int, int, bytes, bytes]:
        """Epoch, seconds left, key of the epoch before, key of this epoch."""
        epoch, left, before, now = struct.unpack(">QI32s32s", self.ask(0x02))
        return epoch, left, before, now

    def open_ticket(
        self, node: str, epoch: int, nonce: bytes, additional_data: bytes, sealed: bytes
    ) -> bytes:
        """The session in a ticket that another node gave."""
        head = hashlib.sha256(node.encode()).digest()[:16] + struct.pack(">Q", epoch) + nonce
        return self.ask(0x03, payload=head + text_field(additional_data) + sealed)

    def token(
        self,
        route: int = 1,
        method: str = "POST",
        upstream: str = "https://api.psp.example:443",
        path: str = "/v1/charges",
        caller: Caller | bytes = Caller(),
    ) -> bytes:
        who = caller if isinstance(caller, bytes) else caller.encode()
        return self.ask(0x10, route, b"".join(map(text_field, (method, upstream, path))) + who)

    def authorize(
        self,
        route: int = 1,
        method: str = "POST",
        upstream: str = "https://api.psp.example:443",
        path: str = "/v1/charges",
        query: str = "",
        body: bytes | None = None,
        headers: Sequence[tuple[str, str]] = (),
        caller: Caller = Caller(),
    ) -> dict[str, str]:
        """The headers that guard computes; `body` is the body's digest."""
        payload = b"".join(map(text_field, (method, upstream, path, query)))
        payload += b"\0" if body is None else b"\1" + body
        payload += struct.pack(">H", len(headers)) + b"".join(
            text_field(one) for pair in headers for one in pair
        )
        reply = self.ask(0x11, route, payload + caller.encode())
        (count,) = struct.unpack_from(">H", reply)
        texts, at = [], 2
        while at < len(reply):
            (length,) = struct.unpack_from(">H", reply, at)
            texts.append(reply[at + 2 : at + 2 + length].decode())
            at += 2 + length
        assert len(texts) == 2 * count
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def ask(self, operation: int, key: int = 0, payload: bytes = b"") -> bytes:
        request_id, self._next_id = self._next_id, self._next_id + 1
        self.socket.send(HEADER.pack(1, operation, key, request_id, len(payload)) + payload)
        reply = self.socket.recv(65536)
        if not reply:
            raise ConnectionError("guard closed the socket")
        version, answered, echoed, got_id, length = HEADER.unpack_from(reply)
        content = reply[HEADER.size :]
        assert (version, got_id, length) == (1, request_id, len(content))
        if answered == 0xFF:
            raise RefusedByGuard(content[0])
        assert (answered, echoed) == (operation | 0x80, key)
        return content

    def is_closed(self) -> bool:
        """Whether guard ended this socket; reads what it sent before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True


@dataclass
class GuardClient:
    """A running guard and the supervisor's end of its control socket."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 32)))

    def ask(self, operation: int, content: object, descriptors: list[int] | None = None) -> dict[str, Any]:
        request_id = next(self._ids)
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        datagram = HEADER.pack(1, operation, 0, request_id, len(payload)) + payload
        socket.send_fds(self.control, [datagram], descriptors or [])
        return self._reply(operation, request_id)

    def _reply(self, operation: int, request_id: int) -> dict[str, Any]:
        datagram = self.control.recv(1 << 20)
        if not datagram:
            raise ConnectionError("guard closed the control socket")
        _, answered, _, got_id, length = HEADER.unpack_from(datagram)
        assert (got_id, length) == (request_id, len(datagram) - HEADER.size)
        reply: dict[str, Any] = json.loads(datagram[HEADER.size :])
        if answered == 0xFF:
            raise ControlFault(reply)
        assert answered == operation | 0x80
        return reply

    def load(self, sealed: bytes, key: bytes) -> dict[str, Any]:
        """Load a sealed file as unlock and supervisor do it together."""
        return self.load_stream(stream_bytes(sealed, key))[0]

    def load_stream(self, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        """The control socket's answer and the stream's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            request_id = next(self._ids)
            socket.send_fds(self.control, [HEADER.pack(1, 0x40, 0, request_id, 2) + b"{}"], [theirs.fileno()])
            theirs.close()
            ours.settimeout(SECONDS)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                ours.sendall(data)
                ours.shutdown(socket.SHUT_WR)
            line = b""
            with contextlib.suppress(ConnectionResetError):
                while part := ours.recv(4096):
                    line += part
        reply = self._reply(0x40, request_id)
        return reply, json.loads(line)

    def configure(self, configuration: dict[str, Any]) -> dict[str, Any]:
        return self.ask(0x41, configuration)

    def edge(self, *, node: str = "node", keys: list[int] | None = None, rate: int = 100_000) -> WorkerClient:
        return self._worker({"role": "edge", "node": node, "keys": keys, "rate": rate})

    def egress(self) -> WorkerClient:
        return self._worker({"role": "egress"})

    def _worker(self, rights: dict[str, Any]) -> WorkerClient:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.ask(0x42, rights, [theirs.fileno()])
            except ControlFault:
                ours.close()
                raise
        ours.settimeout(SECONDS)
        return WorkerClient(ours)

    def csr(self, name: str) -> bytes:
        return str(self.ask(0x43, {"key": name})["pem"]).encode()

    def status(self) -> dict[str, Any]:
        return self.ask(0x44, {})

    def settings(self, **members: object) -> None:
        self.ask(0x46, members)

    def reshare(self) -> int:
        return int(self.ask(0x47, {})["generation"])

    def drop(self) -> None:
        self.ask(0x45, {})

    def facts(self) -> dict[str, str]:
        """/proc/PID/status of the process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextlib.contextmanager
def running_guard(
    *wrapper: str,
    arguments: Sequence[str] = (),
    program: Path | None = None,
    environment: dict[str, str] | None = None,
    may_fail: bool = False,
) -> Iterator[GuardClient]:
    """A guard of this build, locked and empty; ended by closing its control socket.

    Args:
        wrapper: a command line that becomes the program given behind it.
        arguments: further ones for guard.
        program: another build of guard.
        environment: of the process; empty otherwise.
        may_fail: the test ends the process itself, or lets it be killed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(SECONDS)
    with theirs:
        process = subprocess.Popen(
            [*wrapper, str(program or guard_program()), "--control-fd", str(theirs.fileno()), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment or {},
        )
    try:
        with ours:
            yield GuardClient(process, ours)
        assert process.wait(SECONDS) == 0 or may_fail
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
