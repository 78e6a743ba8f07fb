"""Keyholder's keys: wrapped on disk by the master key, open only in locked memory.

Layout of DIR/keyholder, all 0600: `master.key` (see `master`), `signing.jwe` (ES512), `log.jwe` and `clock.jwe` (Ed25519
seeds), `keys/KID.jwe` (one exchange key each), wrapped as `wrapped` says.

The signing key and the exchange keys are never Python objects. The two Ed25519 keys of the audit log are handed
to the cryptography package for the moment of a signature: they open nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.jose import thumbprint
from unlatch.bootstrap.pins.hardware import NO_ADVICE, Hardware
from unlatch.errors import ConfigError
from unlatch.gate import checkpoint as checkpoints
from unlatch.gate import durable
from unlatch.gate.checkpoint import LogKeys, VerifierKey
from unlatch.gate.identity import challenge_message, write_challenge
from unlatch.gate.master import MASTER_BYTES, Protector, open_master, protect
from unlatch.gate.rewrap import settle
from unlatch.gate.wrapped import open_wrapped, wrap
from unlatch.memguard import _native
from unlatch.memguard._native import Secret

NO_HARDWARE = Protector()
CURVE = "P-521"
ALGORITHM = "ES512"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A wrapped exchange key that is not yet on disk."""

    kid: str
    public: dict[str, Any]
    blob: bytes


class Vault:
    """The keys of one gate. Not thread-safe."""

    def __init__(self, folder: Path, *, master: Secret | None = None) -> None:
        """Open the keys.

        Args:
            folder: DIR/keyholder.
            master: the master key; None opens it here, which is for keys in a file or credential.
        """
        self._folder = folder
        self._master = open_master(folder) if master is None else master
        settle(folder, self._master)
        public, self._signing = self._open("signing", folder / "signing.jwe")
        self.signing_public: dict[str, Any] = public
        self.thumbprint = thumbprint(self.signing_public)
        self.log_keys = LogKeys(log=self._verifier_key("log"), clock=self._verifier_key("clock"))

    @classmethod
    def create(
        cls, folder: Path, *, protector: Protector = NO_HARDWARE, hardware: Hardware = NO_ADVICE
    ) -> Self:
        """Make a new gate's keys in a folder that does not exist yet.

        Raises:
            ConfigError: the folder exists.
            UnlatchError: the protector cannot be used; no folder was made.
        """
        master = Secret.random(MASTER_BYTES)
        protected = protect(master, protector, hardware=hardware)
        durable.make_folder(folder)
        durable.make_folder(folder / "keys")
        protected.write(folder)
        private, public = _native.signing_key_generate(CURVE)
        signing = public_key(strict_json.read_object(public), algorithm=ALGORITHM, operation="verify")
        durable.replace(folder / "signing.jwe", wrap(master, private, purpose="signing", public=signing))
        origin = f"unlatch-gate/{thumbprint(signing)}"
        for name, key_name, kind in (
            ("log", origin, checkpoints.LOG_TYPE), ("clock", f"{origin}/clock", checkpoints.CLOCK_TYPE),
        ):  # fmt: skip
            seed = Secret.random(32)
            raw = _ed25519(seed).public_key().public_bytes_raw()
            vkey = str(VerifierKey(name=key_name, kind=kind, public=raw))
            durable.replace(folder / f"{name}.jwe", wrap(master, seed, purpose=name, public=vkey))
        return cls(folder, master=master)

    def sign(self, message: bytes) -> bytes:
        """An ES512 signature (r ‖ s) of the gate's signing key."""
        return _native.signing_key_sign(self._signing, message)

    def sign_checkpoint(self, *, size: int, root: bytes, time: int) -> str:
        """A checkpoint by log and clock. Whether it follows from the one before is the caller's question."""
        body = checkpoints.checkpoint_body(origin=self.log_keys.log.name, size=size, root=root)
        log = self._sign_ed25519("log", body)
        clock = time.to_bytes(8, "big") + self._sign_ed25519("clock", checkpoints.clock_message(body, time))
        lines = [
            checkpoints.signature_line(self.log_keys.log, log),
            checkpoints.signature_line(self.log_keys.clock, clock),
        ]
        return checkpoints.write_note(body, lines)

    def sign_challenge(self, *, time: int) -> str:
        """A challenge for hosts, by the clock."""
        message = challenge_message(gate=self.thumbprint, time=time)
        return write_challenge(time=time, signature=self._sign_ed25519("clock", message))

    def new_exchange_key(self) -> WrappedKey:
        """A random exchange key for one workload, wrapped but not stored."""
        private, public = _native.exchange_key_generate(CURVE)
        key = public_key(strict_json.read_object(public), algorithm="ECMR", operation="deriveKey")
        blob = wrap(self._master, private, purpose="exchange", public=key)
        return WrappedKey(kid=thumbprint(key), public=key, blob=blob)

    def store(self, key: WrappedKey) -> None:
        """Put a wrapped key on disk, durably."""
        durable.replace(self._key_path(key.kid), key.blob)

    def exchange_public(self, kid: str) -> dict[str, Any]:
        """The public half of a stored exchange key.

        Raises:
            ConfigError: no such key, or its file is damaged.
        """
        found, private = self._open("exchange", self._key_path(kid))
        private.wipe()
        public: dict[str, Any] = found
        if thumbprint(public) != kid:
            raise ConfigError(f"the key file {kid} holds another key")
        return public

    def multiply(self, kid: str, point: bytes) -> bytes:
        """Tang's answer for a point. Whether it may be answered is the caller's question.

        Raises:
            UntrustedGateError: the point is not on the key's curve.
        """
        _, private = self._open("exchange", self._key_path(kid))
        try:
            return _native.exchange_answer(private, point)
        finally:
            private.wipe()

    def _key_path(self, kid: str) -> Path:
        if not base64url.is_digest(kid):
            raise ConfigError("a key name that is no thumbprint")
        return self._folder / "keys" / f"{kid}.jwe"

    def _open(self, purpose: str, path: Path) -> tuple[Any, Secret]:
        found, public, opened = open_wrapped(path, self._master)
        if found != purpose:
            raise ConfigError(f"{path} holds a key for another purpose")
        return public, opened

    def _verifier_key(self, name: str) -> VerifierKey:
        public, seed = self._open(name, self._folder / f"{name}.jwe")
        seed.wipe()
        return VerifierKey.parse(public)

    def _sign_ed25519(self, name: str, message: bytes) -> bytes:
        _, seed = self._open(name, self._folder / f"{name}.jwe")
        try:
            return _ed25519(seed).sign(message)
        finally:
            seed.wipe()


def public_key(jwk: dict[str, Any], *, algorithm: str, operation: str) -> dict[str, Any]:
    """The public half as tangd advertises it: six members, nothing private."""
    return {
        "alg": algorithm, "crv": jwk["crv"], "key_ops": [operation], "kty": "EC", "x": jwk["x"], "y": jwk["y"],
    }  # fmt: skip


def write_jws(payload: bytes, *, vault: Vault, signatures: int) -> bytes:
    """An advertisement as tangd writes it: flattened with one signature, general with two."""
    protected = base64url.encode(
        json.dumps({"alg": ALGORITHM, "cty": "jwk-set+json"}, separators=(",", ":")).encode()
    )
    body = base64url.encode(payload)
    signed = [
        {"protected": protected, "signature": base64url.encode(vault.sign(f"{protected}.{body}".encode()))}
        for _ in range(signatures)
    ]
    document = {"payload": body, **signed[0]} if signatures == 1 else {"payload": body, "signatures": signed}
    return json.dumps(document, separators=(",", ":")).encode()


def _ed25519(seed: Secret) -> Ed25519PrivateKey:
    with seed.expose() as view:
        return Ed25519PrivateKey.from_private_bytes(view)
