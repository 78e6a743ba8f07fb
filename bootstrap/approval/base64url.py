"""Base64url without padding, as JOSE writes it (RFC 7515 section 2), read strictly."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*\Z")
DIGEST_CHARACTERS = 43  # 32 bytes in base64url


def encode(data: bytes) -> str:
    """The text of some bytes, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes of a text.

    Raises:
        ValueError: another alphabet, padding, a length no bytes have, or bits that are not zero at the end.
    """
    if not _ALPHABET.match(text):
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if encode(data) != text:
        raise ValueError("base64url with bits left over")
    return data


def digest(data: bytes) -> str:
    """SHA-256 of some bytes as 43 characters."""
    return encode(hashlib.sha256(data).digest())


def is_digest(text: object) -> bool:
    """Whether a value is written like a SHA-256 digest or thumbprint (no security meaning)."""
    return isinstance(text, str) and len(text) == DIGEST_CHARACTERS and _ALPHABET.match(text) is not None
