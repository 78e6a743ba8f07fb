"""A bundle that an offline key opens: for tests of what happens after the opening."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.secrets import secret
from unlatch.bootstrap import jose, seal
from unlatch.bootstrap.seal import RecoveryTarget
from unlatch.memguard._native import BundleWriter, exchange_key_generate


@dataclass(frozen=True)
class Keyed:
    """Where the file and its key lie, and the token inside."""

    folder: Path
    token: str
    file: str = "pay.jwe"
    key: str = "recovery.jwk"


def seal_keyed(folder: Path, *, token: str, raw: bytes | None = None) -> Keyed:
    """Seal a generated key `tls` and the token `psp`, or raw bytes, to a fresh offline key."""
    private, public = exchange_key_generate("P-256")
    key = jose.read_json(public)
    assert isinstance(key, dict)
    with (folder / Keyed.key).open("wb") as file:
        private.write_fd(file.fileno())
    target = RecoveryTarget(key)
    if raw is not None:
        (folder / Keyed.file).write_bytes(seal.encrypt(secret(raw), target))
        return Keyed(folder, token)
    writer = BundleWriter()
    writer.generate_private_key("tls", "ecdsa-p256", b'{"names":["pay.example"],"roles":["server","csr"]}')
    writer.add_token("psp", secret(token.encode()), None)
    header = {
        "cty": "application/unlatch+json",
        "unlatch": {"secrets": {"tls": "private-key", "psp": "token"}, "unbound": ["psp"]},
    }
    (folder / Keyed.file).write_bytes(seal.encrypt(writer.finish([]), target, extra=header))
    return Keyed(folder, token)
