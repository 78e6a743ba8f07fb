"""Does a secret stand in clear in a process's memory? Reads /proc/PID/mem, changes nothing, reports no secret byte.

What it sees: every mapping that the kernel lets us read, in the forms below, whole or from any 16 bytes on. What it
does not see: locked memory that the kernel hides (memfd_secret), registers, kernel buffers, swap, and any form that is
not listed, such as a share. A report is worth what its control is worth: plant a secret and find it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unlatch.errors import UnavailableError

PIECE = 16
"""Shortest run that counts: 128 bits do not stand somewhere by chance."""
CHUNK = 4 << 20
# Mappings of devices and of the kernel's own pages: reading them can hang or means nothing.
SKIPPED = ("[vvar]", "[vsyscall]", "/dev/")


class NotReadableError(UnavailableError):
    """The kernel does not let us read this process: never the same as no hit."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one process held."""

    hits: int
    bytes_read: int
    unreadable: int
    """Mappings that could not be read; they are not clean, they are unknown."""


def forms(secret: bytes) -> list[bytes]:
    """The ways a byte string stands in memory: as it is, reversed (little-endian numbers), base64 in each phase, hex."""
    found = [secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode()]
    for phase in range(3):
        encoded = base64.b64encode(b"\0" * phase + secret)
        start = -(-8 * phase // 6)
        end = 8 * (phase + len(secret)) // 6
        inner = encoded[start:end]
        found += [inner, inner.replace(b"+", b"-").replace(b"/", b"_")]
    return found


def private_key_forms(pem: bytes) -> list[bytes]:
    """The forms of every secret number of a private key, and of its PEM text."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(pem, password=None)
    found: list[bytes] = []
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        for number in (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp):
            found += forms(number.to_bytes((number.bit_length() + 7) // 8, "big"))
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found += forms(key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big"))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        found += forms(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
    return found


def pieces(found: Iterable[bytes]) -> list[bytes]:
    """What to look for: 16 bytes of every 32, so that any 48 bytes of a form, and every short form, are met."""
    wanted: set[bytes] = set()
    for form in found:
        if len(form) <= PIECE:
            wanted.add(form)
        else:
            wanted.update(form[start : start + PIECE] for start in range(0, len(form) - PIECE + 1, 2 * PIECE))
            wanted.add(form[-PIECE:])
    return sorted(wanted)


def scan(pid: int, wanted: Iterable[bytes]) -> Report:
    """Count the pieces in one process.

    Raises:
        NotReadableError: not root, another user's process, or it ended.
    """
    wanted = list(wanted)
    longest = max(map(len, wanted))
    hits = bytes_read = unreadable = 0
    try:
        mappings = Path(f"/proc/{pid}/maps").read_text().splitlines()
        memory = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115 - closed by the block below
    except OSError as error:
        raise NotReadableError(f"process {pid} is not readable: {error.strerror}") from error
    with memory:
        for mapping in mappings:
            parts = mapping.split(maxsplit=5)
            name = parts[5] if len(parts) == 6 else ""
            if name.startswith(SKIPPED):
                continue
            start, end = (int(value, 16) for value in parts[0].split("-"))
            tail = b""
            for position in range(start, end, CHUNK):
                try:
                    memory.seek(position)
                    data = memory.read(min(CHUNK, end - position))
                except (OSError, ValueError, OverflowError):
                    unreadable += 1
                    break
                bytes_read += len(data)
                block = tail + data
                hits += sum(block.count(piece) for piece in wanted)
                tail = block[-(longest - 1) :]
                hits -= sum(tail.count(piece) for piece in wanted)
            hits += sum(tail.count(piece) for piece in wanted)
    return Report(hits=hits, bytes_read=bytes_read, unreadable=unreadable)
