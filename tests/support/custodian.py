"""A custodian that does as a test says: the other end of guard's socket, in a thread.

Written against docs/protocol.md section 13, without production code.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from support.guard_client import HEADER, SECONDS, ControlFault, GuardClient, spki

SIGN, KEYS, PIN, STATUS, EVENT = 0x01, 0x30, 0x31, 0x32, 0x33
CUSTODIAN = 0x48


@dataclass(frozen=True)
class Question:
    """What guard asked."""

    operation: int
    key: int
    request_id: int
    payload: bytes


Answer = Callable[["ScriptedCustodian", Question], None]


@dataclass
class ScriptedCustodian:
    """Answers what it has a script for, and keeps every question in `asked`.

    By default it is ready at once, has the keys that it was given, and signs with them.
    """

    keys: dict[int, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    scripts: dict[int, Answer] = field(default_factory=dict)
    asked: queue.Queue[Question] = field(default_factory=queue.Queue)
    connection: socket.socket = field(init=False)

    def start(
        self,
        guard: GuardClient,
        names: dict[int, str],
        *,
        number: int = 0,
        hardware: str = "pkcs11:token=prod",
        pin: str | None = None,
        state: str | None = "ready",
    ) -> ScriptedCustodian:
        """Introduce it to guard; `state` is the first event, None for none."""
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(SECONDS)
        keys = [{"id": at, "name": name} for at, name in names.items()]
        content = {"id": number, "hardware": hardware, "keys": keys, "pin": pin}
        with theirs:
            try:
                guard.ask(CUSTODIAN, content, [theirs.fileno()])
            except ControlFault:
                self.connection.close()
                raise
        threading.Thread(target=self._serve, args=(self.connection,), daemon=True).start()
        if state is not None:
            self.tell(state)
        return self

    def tell(self, state: str, reason: str = "") -> None:
        """Send an event."""
        self.send(EVENT, 0, 0, json.dumps({"state": state, "reason": reason}).encode())

    def send(self, operation: int, key: int, request_id: int, payload: bytes = b"") -> None:
        """Send a datagram."""
        self.connection.send(HEADER.pack(1, operation, key, request_id, len(payload)) + payload)

    def reply(self, asked: Question, payload: bytes = b"") -> None:
        """Answer a question."""
        self.send(asked.operation | 0x80, asked.key, asked.request_id, payload)

    def refuse(self, asked: Question, code: int) -> None:
        """Refuse a question."""
        self.send(0xFF, asked.key, asked.request_id, bytes([code]))

    def describe(self) -> dict[str, Any]:
        """The reply to keys."""
        found = [
            {"id": at, "name": "?", "algorithm": "?", "schemes": [0x0403], "spki": spki(key).hex()}
            for at, key in self.keys.items()
        ]
        return {"state": "ready", "reason": "", "found": found, "missing": []}

    def next(self, operation: int) -> Question:
        """The next question of this kind; others are passed over."""
        while True:
            question = self.asked.get(timeout=SECONDS)
            if question.operation == operation:
                return question

    def has_none(self, operation: int, *, seconds: float) -> bool:
        """Whether no question of this kind comes in that time."""
        try:
            while True:
                if self.asked.get(timeout=seconds).operation == operation:
                    return False
        except queue.Empty:
            return True

    def is_closed(self) -> bool:
        """Whether guard ended the socket."""
        return bool(self._ended.wait(SECONDS))

    def close(self) -> None:
        """End."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def __post_init__(self) -> None:
        self._ended = threading.Event()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                _, operation, key, request_id, _ = HEADER.unpack_from(data)
                question = Question(operation, key, request_id, data[HEADER.size :])
                self.scripts.get(operation, DEFAULTS[operation])(self, question)
                self.asked.put(question)
        self._ended.set()


def sign(one: ScriptedCustodian, asked: Question) -> None:
    """Sign with ECDSA and SHA-256."""
    one.reply(asked, one.keys[asked.key].sign(asked.payload[2:], ec.ECDSA(hashes.SHA256())))


def silence(one: ScriptedCustodian, asked: Question) -> None:
    """Never answer."""


def refusing(code: int) -> Answer:
    """Refuse with this code."""
    return lambda one, asked: one.refuse(asked, code)


def take_pin(one: ScriptedCustodian, asked: Question) -> None:
    """Accept whatever comes."""
    one.tell("ready")
    one.reply(asked)


def count(one: ScriptedCustodian, asked: Question) -> None:
    """Counters of key 1."""
    told = one.describe() | {"keys": {"1": {"signed": 2, "p50_ms": 0.5, "p99_ms": 2.5}}}
    one.reply(asked, json.dumps(told).encode())


DEFAULTS: dict[int, Answer] = {
    SIGN: sign,
    KEYS: lambda one, asked: one.reply(asked, json.dumps(one.describe()).encode()),
    PIN: take_pin,
    STATUS: count,
}


def scheme_of(asked: Question) -> int:
    """The signature scheme of a sign question."""
    return int(struct.unpack_from(">H", asked.payload)[0])
