"""RFC 7638 thumbprints, in every hash that tangd accepts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from unlatch.bootstrap.approval import base64url

_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "oct": ("k", "kty"), "OKP": ("crv", "kty", "x")}
HASHES = ("sha256", "sha1", "sha224", "sha384", "sha512")


def thumbprint(key: Mapping[str, object], *, algorithm: str = "sha256") -> str:
    """A key's thumbprint, base64url.

    Raises:
        ValueError: the key's type is unknown or a member it needs is missing.
    """
    names = _MEMBERS.get(str(key.get("kty")))
    if names is None or not all(isinstance(key.get(name), str) for name in names):
        raise ValueError("a key without a thumbprint")
    text = json.dumps({name: key[name] for name in names}, separators=(",", ":"), sort_keys=True)
    return base64url.encode(hashlib.new(algorithm, text.encode()).digest())


def thumbprints(key: Mapping[str, object]) -> frozenset[str]:
    """A key's thumbprints in all five hashes that tangd takes in a path."""
    return frozenset(thumbprint(key, algorithm=name) for name in HASHES)
