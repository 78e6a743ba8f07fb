"""What whoever has taken over edge or egress can ask guard: its own socket, duplicated from the running process.

Root only (pidfd_getfd). The messages are those of docs/protocol.md 1; guard cannot tell them from the process's own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import socket
import struct

from unlatch.errors import UnavailableError

PIDFD_GETFD = 438
SIGN, TOKEN, REFUSED = 0x01, 0x10, 0xFF
ECDSA_SECP256R1_SHA256 = 0x0403
REFUSALS = {
    2: "unknown key or route",
    3: "not for this socket",
    4: "scheme not allowed",
    5: "not a handshake",
    6: "caller not allowed",
    7: "outside the sealed rules",
}
SECONDS = 5.0


def steal_socket(pid: int, descriptor: int) -> socket.socket:
    """A duplicate of a descriptor of a running process.

    Raises:
        UnavailableError: not root, or no such process or descriptor.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        process = os.pidfd_open(pid)
    except OSError as error:
        raise UnavailableError(f"process {pid}: {error.strerror}") from error
    try:
        copy = libc.syscall(PIDFD_GETFD, process, descriptor, 0)
        if copy < 0:
            raise UnavailableError(
                f"descriptor {descriptor} of process {pid}: {os.strerror(ctypes.get_errno())}"
            )
        return socket.socket(fileno=copy)
    finally:
        os.close(process)


def ask_to_sign(channel: socket.socket, message: bytes, *, key: int = 1) -> str:
    """Ask for a signature over any message; gives `signed` or why not."""
    return _ask(channel, SIGN, key, struct.pack(">H", ECDSA_SECP256R1_SHA256) + message)


def ask_for_token(channel: socket.socket, *, route: int, method: str, upstream: str, path: str) -> str:
    """Ask for a token towards an upstream; gives `given` or why not."""
    caller = b"\0" + _field(b"127.0.0.1")
    payload = b"".join(_field(value.encode()) for value in (method, upstream, path)) + caller
    return _ask(channel, TOKEN, route, payload)


def certificate_to_be_signed() -> bytes:
    """Bytes that begin as a certificate's TBSCertificate does."""
    return b"\x30\x82\x01\x0a\xa0\x03\x02\x01\x02\x02\x14" + hashlib.sha512(b"certificate").digest()


def _field(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _ask(channel: socket.socket, operation: int, key: int, payload: bytes) -> str:
    """One question, one answer, without touching the flags that the copy shares with the process."""
    request = 0xFEED0000 + operation
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    try:
        channel.send(
            struct.pack(">BBHII", 1, operation, key, request, len(payload)) + payload, socket.MSG_DONTWAIT
        )
        while waiting.poll(SECONDS * 1000):
            answer = channel.recv(16384, socket.MSG_DONTWAIT)
            if len(answer) < 12:
                return "no answer"
            _, kind, _, number, _ = struct.unpack(">BBHII", answer[:12])
            if number == request:
                return _verdict(operation, kind, answer[12:])
    except OSError as error:
        return f"no answer ({error.strerror})"
    return "no answer"


def _verdict(operation: int, kind: int, payload: bytes) -> str:
    if kind != REFUSED:
        return "signed" if operation == SIGN else "given"
    return f"refused: {REFUSALS.get(payload[0], 'another reason')}"
