"""A stand-in for guard: docs/protocol.md section 1.1 and 1.2 over SEQPACKET, with keys in this process.

TEST ONLY. It signs whatever it is asked and gives tokens by a table; `silent`, `refusal` and `close` make it fail.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

HEADER = struct.Struct(">BBHII")
SIGN, TICKET_KEYS, TOKEN, AUTHORIZE, REFUSED = 0x01, 0x02, 0x10, 0x11, 0xFF
_PSS = {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()}
_PKCS1 = {0x0401: hashes.SHA256(), 0x0501: hashes.SHA384(), 0x0601: hashes.SHA512()}


def sign(key: PrivateKey, scheme: int, message: bytes) -> bytes:
    """A TLS signature of `scheme` over the unhashed message."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hashes.SHA256() if scheme == 0x0403 else hashes.SHA384()))
    if scheme in _PSS:
        digest = _PSS[scheme]
        return key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return key.sign(message, padding.PKCS1v15(), _PKCS1[scheme])


@dataclass
class TokenRequest:
    """What egress asked for, field by field."""

    route: int
    method: str
    upstream: str
    path: str
    caller: bytes


@dataclass
class AuthorizeRequest:
    """What egress wanted headers for."""

    method: str
    path: str
    query: str
    body: bytes | None
    headers: list[tuple[str, str]]


@dataclass
class Slow:
    """A key that takes `seconds`, or waits until `release` is set, or never answers; `most` were asked at once."""

    seconds: float = 0
    release: threading.Event | None = None
    never: bool = False
    asked: int = 0
    most: int = 0
    _now: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self) -> bool:
        """Take the time; whether to answer."""
        with self._changed:
            self.asked += 1
            self._now += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
        if self.release is not None:
            assert self.release.wait(30)
        time.sleep(self.seconds)
        with self._changed:
            self._now -= 1
        return not self.never

    def wait_until_asked(self, count: int) -> None:
        """Until so many signatures were wanted in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked >= count, 30)


def _receive(end: socket.socket) -> bytes:
    """One datagram; nothing from an edge that has ended, also where it left answers unread."""
    try:
        return end.recv(16384)
    except ConnectionResetError:
        return b""


@dataclass
class Signer:
    """Serves any number of worker sockets, each in a thread."""

    keys: dict[int, PrivateKey] = field(default_factory=dict)
    tokens: dict[int, bytes] = field(default_factory=dict)
    headers: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    ticket_keys: tuple[int, int, bytes, bytes] | None = None
    refusal: int | None = None
    refusals: dict[int, int] = field(default_factory=dict)
    """By key."""
    silent: bool = False
    slow: dict[int, Slow] = field(default_factory=dict)
    signed: int = 0
    ticket_requests: int = 0
    schemes: list[int] = field(default_factory=list)
    token_requests: list[TokenRequest] = field(default_factory=list)
    authorize_requests: list[AuthorizeRequest] = field(default_factory=list)
    _ends: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def connect(self) -> socket.socket:
        """A new worker socket: the worker's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        self._ends.append(ours)
        self._threads.append(thread)
        thread.start()
        return theirs

    def close(self) -> None:
        """End like a guard that was killed."""
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()
        self._ends, self._threads = [], []

    def _serve(self, end: socket.socket) -> None:
        while datagram := _receive(end):
            version, operation, key, request_id, length = HEADER.unpack_from(datagram)
            payload = datagram[HEADER.size :]
            assert (version, len(payload)) == (1, length)
            if self.silent:
                continue
            if operation == SIGN and key in self.slow and not self.slow[key].wait():
                continue
            refusal = self.refusals.get(key, self.refusal) if operation == SIGN else self.refusal
            answer = bytes([refusal]) if refusal else self._answer(operation, key, payload)
            kind = REFUSED if len(answer) == 1 else operation | 0x80
            try:
                end.send(HEADER.pack(1, kind, 0, request_id, len(answer)) + answer)
            except (BrokenPipeError, ConnectionResetError):
                return

    def _answer(self, operation: int, key: int, payload: bytes) -> bytes:
        if operation == SIGN and key in self.keys:
            self.signed += 1
            scheme = int.from_bytes(payload[:2], "big")
            self.schemes.append(scheme)
            return sign(self.keys[key], scheme, payload[2:])
        if operation == TICKET_KEYS and self.ticket_keys:
            self.ticket_requests += 1
            epoch, seconds, previous, current = self.ticket_keys
            return struct.pack(">QI", epoch, seconds) + previous + current
        if operation == TOKEN and key in self.tokens:
            (method, upstream, path), payload = _fields(payload, 3)
            self.token_requests.append(TokenRequest(key, method, upstream, path, payload))
            return self.tokens[key]
        if operation == AUTHORIZE and key in self.headers:
            self.authorize_requests.append(_authorize_request(payload))
            parts = [part.encode() for pair in self.headers[key] for part in pair]
            fields = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
            return len(self.headers[key]).to_bytes(2, "big") + fields
        return b"\x02"


def _fields(payload: bytes, count: int) -> tuple[list[str], bytes]:
    """So many fields, and what follows them."""
    fields = []
    for _ in range(count):
        size = int.from_bytes(payload[:2], "big")
        fields.append(payload[2 : 2 + size].decode())
        payload = payload[2 + size :]
    return fields, payload


def _authorize_request(payload: bytes) -> AuthorizeRequest:
    (method, _, path, query), payload = _fields(payload, 4)
    body, payload = (payload[1:33], payload[33:]) if payload[0] else (None, payload[1:])
    count = int.from_bytes(payload[:2], "big")
    words, _ = _fields(payload[2:], 2 * count)
    return AuthorizeRequest(method, path, query, body, list(zip(words[::2], words[1::2], strict=True)))
