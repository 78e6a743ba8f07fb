"""Messages between guard and a custodian (docs/protocol.md, section "Custodian").

Pure. One datagram of a SEQPACKET socket is one message, with the header of every private protocol here:
version, operation, key, request id, length of the payload. A datagram that breaks this ends the custodian's service,
for only guard is at the other end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

VERSION = 1
HEADER = struct.Struct(">BBHII")
MAX_BYTES = 16 * 1024
"""As on every worker socket."""
MAX_PIN_BYTES = 255
REPLY = 0x80
REFUSED = 0xFF


class Operation(IntEnum):
    """What guard asks, and what a custodian tells."""

    SIGN = 0x01
    """Payload: u16 TLS SignatureScheme, then the unhashed handshake message. Reply: the signature as TLS sends it."""
    KEYS = 0x30
    """Look the keys up again and describe them. Reply: JSON."""
    PIN = 0x31
    """Payload: the PIN; the header's key field is its generation. Reply: empty, once the token took it."""
    STATUS = 0x32
    """Reply: JSON."""
    EVENT = 0x33
    """From the custodian, unasked, request id 0: JSON with the new state."""


class Refusal(IntEnum):
    """The payload's one byte, as guard's own refusals where they mean the same."""

    MALFORMED = 1
    UNKNOWN_KEY = 2
    SCHEME = 4
    NOT_A_HANDSHAKE = 5
    BUSY = 8
    INTERNAL = 9
    NEED_PIN = 10
    LOST = 11
    """The token or TPM does not answer."""
    TOO_SLOW = 12
    PIN_WRONG = 13
    """Do not send this generation again."""
    PIN_BLOCKED = 14


class MalformedError(Exception):
    """Bytes that are no message of this protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram. The payload of a PIN message is a view into locked memory: use it before the next one comes."""

    operation: int
    key: int
    request_id: int
    payload: memoryview | bytes

    @classmethod
    def decode(cls, data: memoryview | bytes) -> Self:
        """Split a datagram.

        Raises:
            MalformedError: another version, or a length that is not the payload's.
        """
        if not HEADER.size <= len(data) <= MAX_BYTES:
            raise MalformedError
        version, operation, key, request_id, length = HEADER.unpack_from(data)
        payload = data[HEADER.size :]
        if version != VERSION or length != len(payload):
            raise MalformedError
        return cls(operation, key, request_id, payload)

    def encode(self) -> bytes:
        """Write a datagram."""
        head = HEADER.pack(VERSION, self.operation, self.key, self.request_id, len(self.payload))
        return head + bytes(self.payload)


def reply(asked: Message, payload: bytes = b"") -> bytes:
    """Write the answer to a message."""
    return Message(asked.operation | REPLY, asked.key, asked.request_id, payload).encode()


def refusal(asked: Message, reason: Refusal) -> bytes:
    """Write a refusal."""
    return Message(REFUSED, asked.key, asked.request_id, bytes([reason])).encode()


def event(fields: Mapping[str, object]) -> bytes:
    """Write an unasked message."""
    return Message(Operation.EVENT, 0, 0, json.dumps(fields).encode()).encode()


def split_sign(payload: memoryview | bytes) -> tuple[int, bytes]:
    """Give signature scheme and handshake message.

    Raises:
        MalformedError: too short for both.
    """
    if len(payload) < 3:
        raise MalformedError
    return int.from_bytes(payload[:2], "big"), bytes(payload[2:])
