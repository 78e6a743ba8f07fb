"""A running custodian, and guard's end of its socket."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import subprocess
from collections import deque
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.serialization import load_der_public_key

from unlatch.memguard.custodian.handshake import check, method
from unlatch.memguard.custodian.protocol import REFUSED, Operation, Refusal
from unlatch.memguard.custodian.signatures import verify
from unlatch.memguard.posture import environment

HEADER = struct.Struct(">BBHII")
TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
GENERATOR_P256 = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
TLS12 = bytes(64) + b"\3\0\x17\x41" + GENERATOR_P256


def tls13(text: str = "") -> bytes:
    """A server's CertificateVerify message."""
    return TLS13 + hashlib.sha256(text.encode()).digest()


class CustodianRefusedError(Exception):
    """The custodian refused."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Custodian:
    """``with Custodian(config, env) as one: one.sign(1, 0x0403, message)``. Events are kept in `events`."""

    def __init__(self, config: dict[str, Any], variables: dict[str, str] | None = None) -> None:
        self.events: deque[dict[str, Any]] = deque()
        self._number = 0
        self._replies: dict[int, tuple[int, bytes]] = {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(30)
        read, write = os.pipe()
        with theirs:
            self.process = subprocess.Popen(
                environment.command("unlatch.memguard.custodian", str(read), str(theirs.fileno())),
                pass_fds=[read, theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment.hard({"PATH": "/usr/bin:/bin"} | (variables or {})),
            )
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(config).encode())

    def wait_for(self, *states: str) -> dict[str, Any]:
        """Take events until one has such a state."""
        while True:
            while self.events:
                event = self.events.popleft()
                if event["state"] in states:
                    return event
            self._receive()

    def ask(self, operation: int, key: int = 0, payload: bytes = b"") -> bytes:
        """One question, one answer."""
        return self.answer(self.send(operation, key, payload))

    def send(self, operation: int, key: int = 0, payload: bytes = b"") -> int:
        """A question; gives its number."""
        self._number += 1
        self._socket.send(HEADER.pack(1, operation, key, self._number, len(payload)) + payload)
        return self._number

    def answer(self, number: int) -> bytes:
        """The answer to a question."""
        while number not in self._replies:
            self._receive()
        operation, payload = self._replies.pop(number)
        if operation == REFUSED:
            raise CustodianRefusedError(Refusal(payload[0]))
        return payload

    def sign(self, key: int, scheme: int, message: bytes) -> bytes:
        """A signature."""
        return self.ask(Operation.SIGN, key, struct.pack(">H", scheme) + message)

    def start_sign(self, key: int, scheme: int, message: bytes) -> int:
        """Ask for a signature without waiting."""
        return self.send(Operation.SIGN, key, struct.pack(">H", scheme) + message)

    def give_pin(self, pin: str, generation: int = 1) -> None:
        """Log in."""
        self.ask(Operation.PIN, generation, pin.encode())

    def keys(self) -> dict[str, dict[str, Any]]:
        """Found keys by name."""
        return {one["name"]: one for one in json.loads(self.ask(Operation.KEYS))["found"]}

    def status(self) -> dict[str, Any]:
        """Everything it tells."""
        told: dict[str, Any] = json.loads(self.ask(Operation.STATUS))
        return told

    def send_raw(self, data: bytes) -> None:
        """Any bytes."""
        self._socket.send(data)

    def ended(self) -> int:
        """Wait for its end and give the exit code."""
        return self.process.wait(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError(self.process.stderr.read().decode() if self.process.stderr else "")
        _, operation, _, number, length = HEADER.unpack_from(data)
        payload = data[HEADER.size :]
        assert len(payload) == length
        if operation == Operation.EVENT:
            self.events.append(json.loads(payload))
        else:
            self._replies[number] = (operation, payload)


def verified(key: dict[str, Any], scheme: int, message: bytes, signature: bytes) -> None:
    """Check a signature with the key that the custodian described."""
    public: Any = load_der_public_key(bytes.fromhex(key["spki"]))
    verify(public, method(key["algorithm"], scheme, check(message)), message, signature)
