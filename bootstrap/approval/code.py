"""The code that ties an approval to the console that asks.

Rule 1: the keyholder makes it after it has the point, from its own nonce: an asker cannot choose it.
Rule 2: it guards against mix-ups, it is no secret: whoever has the nonce can derive it.
Rule 3: eight letters of RFC 8628 section 6.1 (no vowels, no digits), two groups; typed in any case, with or without the dash.
"""

from __future__ import annotations

import hashlib
import re

from unlatch.bootstrap.approval import base64url

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
LETTERS = 8
NONCE_BYTES = 32

_TYPED = re.compile(rf"[{ALPHABET}]{{{LETTERS}}}\Z")


def derive_code(*, nonce: bytes, point: str, workload: str) -> str:
    """The code ``XXXX-XXXX`` of a request.

    Args:
        nonce: 32 bytes, fresh for this request.
        point: thumbprint of the asked point.
        workload: name of the workload.

    The digest's bias modulo 20^8 is below 2^-220.
    """
    material = hashlib.sha256(b"unlatch-code-v1")
    for field in (nonce, point.encode(), workload.encode()):
        material.update(len(field).to_bytes(4, "big") + field)
    number = int.from_bytes(material.digest(), "big")
    letters = []
    for _ in range(LETTERS):
        number, rest = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[rest])
    return "".join(letters[:4]) + "-" + "".join(letters[4:])


def read_code(typed: str) -> str:
    """What a person typed, as ``XXXX-XXXX``.

    Raises:
        ValueError: not eight letters of the alphabet.
    """
    letters = re.sub(r"[\s-]", "", typed).upper()
    if not typed.isascii() or not _TYPED.match(letters):  # U+017F is an S in capitals
        raise ValueError("a code is two groups of four letters without vowels, such as KTRW-HQMZ")
    return letters[:4] + "-" + letters[4:]


def code_digest(code: str, *, request: str) -> str:
    """What a statement holds in place of the typed code."""
    return base64url.digest(b"unlatch-code-v1\0" + request.encode() + b"\0" + code.encode())
