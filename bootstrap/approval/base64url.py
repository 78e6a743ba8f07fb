"""Digests and thumbprints as 43 characters of base64url, beside JOSE's encoding itself."""

from __future__ import annotations

import hashlib
import re

from unlatch.bootstrap.jose import decode, encode

__all__ = ["decode", "digest", "encode", "is_digest"]

_DIGEST = re.compile(r"[A-Za-z0-9_-]{43}\Z")


def digest(data: bytes) -> str:
    """SHA-256 of some bytes as 43 characters."""
    return encode(hashlib.sha256(data).digest())


def is_digest(text: object) -> bool:
    """Whether a value is written like a SHA-256 digest or thumbprint (no security meaning)."""
    return isinstance(text, str) and _DIGEST.match(text) is not None
