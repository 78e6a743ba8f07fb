"""A key of the gate as it lies on disk: a compact JWE (dir, A256GCM) under the master key, with its public half in the header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rfc8785

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.errors import ConfigError
from unlatch.memguard import _native
from unlatch.memguard._native import Secret

MAX_BYTES = 16384


def wrap(master: Secret, secret: Secret, *, purpose: str, public: object) -> bytes:
    """Wrap a key. What it is for and its public half are authenticated with it, so that no two can be swapped."""
    header = rfc8785.dumps(
        {"alg": "dir", "enc": "A256GCM", "unlatch": {"purpose": purpose, "public": public}}  # type: ignore[dict-item]
    )
    return _native.jwe_seal(header, secret, master)


def open_wrapped(path: Path, master: Secret) -> tuple[str, Any, Secret]:
    """Open a wrapped key; gives purpose, public half and the key.

    Raises:
        ConfigError: the file cannot be read, or is no wrapped key.
        DamagedFileError: it does not open under this master key.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        header = strict_json.read_object(base64url.decode(blob[:MAX_BYTES].split(b".")[0].decode()))
        opened = _native.jwe_open(blob, master)
        facts = header["unlatch"]
        return str(facts["purpose"]), facts["public"], opened
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no wrapped key") from error
