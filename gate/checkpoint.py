"""Checkpoints of the audit log, as C2SP writes them, so that outside tools can verify and witness it.

Two keys sign each checkpoint: the log's (plain Ed25519, type 0x01) and its clock's (timestamped cosignature, type
0x04), because a checkpoint's text has no time and an approval must not rest on an old one. They are two
keys since C2SP advises against one key for two types.

Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from unlatch.errors import RefusedError

LOG_TYPE = 0x01
CLOCK_TYPE = 0x04
MAX_NOTE_BYTES = 8192
MAX_SIGNATURES = 16
MAX_AGE_SECONDS = 15 * 60
MAX_AHEAD_SECONDS = 60  # clocks of gate and verifier may differ

_KEY_NAME = re.compile(r"[^\s+\x00-\x20]+\Z")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}\Z")


class CheckpointError(RefusedError):
    """A checkpoint is malformed, not signed by the log, or too old."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as C2SP writes it: ``name+id+base64(type ‖ key)``."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes that mark this key's signatures."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a vkey.

        Raises:
            CheckpointError: not a vkey, another type than Ed25519, or an id that does not belong to it.
        """
        name, _, rest = text.partition("+")
        marked, _, encoded = rest.partition("+")
        data = _base64(encoded)
        if not _KEY_NAME.match(name) or len(data) != 33 or data[0] not in (LOG_TYPE, CLOCK_TYPE):
            raise CheckpointError("not a verifier key for Ed25519")
        key = cls(name=name, kind=data[0], public=data[1:])
        if key.id.hex() != marked:
            raise CheckpointError("a verifier key whose id does not belong to it")
        return key

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check one Ed25519 signature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise CheckpointError(f"the signature of {self.name} on the checkpoint is wrong") from error


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The two public keys of a gate's log."""

    log: VerifierKey
    clock: VerifierKey


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed tree head: `size` leaves with this root, seen at `time` (Unix seconds)."""

    origin: str
    size: int
    root: bytes
    time: int

    @property
    def body(self) -> bytes:
        """The note text that the log's key signs."""
        return checkpoint_body(origin=self.origin, size=self.size, root=self.root)

    def check_age(self, now: float) -> None:
        """Refuse a checkpoint older than 15 minutes, or from the future.

        Raises:
            CheckpointError: says how old it is.
        """
        age = now - self.time
        if age > MAX_AGE_SECONDS:
            raise CheckpointError(f"the audit checkpoint is {int(age)} s old, {MAX_AGE_SECONDS} are allowed")
        if age < -MAX_AHEAD_SECONDS:
            raise CheckpointError(f"the audit checkpoint is {int(-age)} s ahead of this clock")


def checkpoint_body(*, origin: str, size: int, root: bytes) -> bytes:
    """The three lines of a checkpoint."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def clock_message(body: bytes, time: int) -> bytes:
    """What the clock's key signs over a checkpoint's text."""
    return f"cosignature/v1\ntime {time}\n".encode() + body


def signature_line(key: VerifierKey, signature: bytes) -> str:
    """One signature line of a note; for the clock, `signature` starts with its 8-byte time."""
    return f"\u2014 {key.name} {base64.b64encode(key.id + signature).decode()}\n"


def write_note(body: bytes, lines: list[str]) -> str:
    """A signed note: text, an empty line, signatures."""
    return body.decode() + "\n" + "".join(lines)


def read_checkpoint(note: str, *, keys: LogKeys) -> Checkpoint:
    """Verify a checkpoint by both keys of the log; other signatures are passed over.

    Raises:
        CheckpointError: malformed, another log's, or a signature is missing or wrong.
    """
    body, signatures = _split_note(note)
    origin, size, root = _read_body(body)
    if origin != keys.log.name:
        raise CheckpointError("the checkpoint belongs to another log")
    keys.log.verify(_signature_of(keys.log, signatures, 64), body)
    stamped = _signature_of(keys.clock, signatures, 72)
    time = int.from_bytes(stamped[:8], "big")
    if time >= 1 << 63:
        raise CheckpointError("the checkpoint's time is out of range")
    keys.clock.verify(stamped[8:], clock_message(body, time))
    return Checkpoint(origin=origin, size=size, root=root, time=time)


def _split_note(note: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    if len(note) > MAX_NOTE_BYTES or any(ord(letter) < 0x20 and letter != "\n" for letter in note):
        raise CheckpointError("not a signed note")
    text, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise CheckpointError("not a signed note")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointError("too many signatures on the checkpoint")
    signatures = []
    for line in lines:
        fields = line.split(" ")
        if len(fields) != 3 or fields[0] != "\u2014" or not _KEY_NAME.match(fields[1]):
            raise CheckpointError("not a signature line")
        signatures.append((fields[1], _base64(fields[2])))
    return _utf8(text + "\n"), signatures


def _read_body(body: bytes) -> tuple[str, int, bytes]:
    lines = body.decode().split("\n")
    if len(lines) < 4 or not all(lines[:-1]):
        raise CheckpointError("not a checkpoint")
    root = _base64(lines[2])
    if not _SIZE.match(lines[1]) or len(root) != 32:
        raise CheckpointError("not a checkpoint")
    return lines[0], int(lines[1]), root


def _signature_of(key: VerifierKey, signatures: list[tuple[str, bytes]], length: int) -> bytes:
    for name, data in signatures:
        if name == key.name and data[:4] == key.id:
            if len(data) != 4 + length:
                raise CheckpointError(f"the signature of {key.name} has another length")
            return data[4:]
    raise CheckpointError(f"the checkpoint is not signed by {key.name}")


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CheckpointError("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise CheckpointError("not base64")
    return data


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError("a checkpoint that is not UTF-8") from error
