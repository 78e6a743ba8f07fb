"""Keyholder's keys: wrapped on disk by the master key, open only in locked memory.

Layout of DIR/keyholder, all 0600: `master.key` (32 bytes), `signing.jwe` (ES512), `log.jwe` and `clock.jwe` (Ed25519
seeds), `keys/KID.jwe` (one exchange key each). A wrapped key is a compact JWE (dir, A256GCM) whose protected header
carries the public half, so that it cannot be swapped.

The signing key and the exchange keys are never Python objects. The two Ed25519 keys of the audit log are handed
to the cryptography package for the moment of a signature: they open nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.jose import thumbprint
from unlatch.errors import ConfigError
from unlatch.gate import checkpoint as checkpoints
from unlatch.gate import durable
from unlatch.gate.checkpoint import LogKeys, VerifierKey
from unlatch.gate.identity import challenge_message, write_challenge
from unlatch.memguard import _native
from unlatch.memguard._native import Secret

MASTER_BYTES = 32
CURVE = "P-521"
ALGORITHM = "ES512"
_MAX_BLOB_BYTES = 16384


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A wrapped exchange key that is not yet on disk."""

    kid: str
    public: dict[str, Any]
    blob: bytes


class Vault:
    """The keys of one gate. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._master = _read_master(folder / "master.key")
        header, self._signing = self._open("signing", folder / "signing.jwe")
        self.signing_public: dict[str, Any] = header["public"]
        self.thumbprint = thumbprint(self.signing_public)
        self.log_keys = LogKeys(log=self._verifier_key("log"), clock=self._verifier_key("clock"))

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make a new gate's keys in a folder that does not exist yet.

        Raises:
            ConfigError: the folder exists.
        """
        durable.make_folder(folder)
        durable.make_folder(folder / "keys")
        master = Secret.random(MASTER_BYTES)
        _write_secret(folder / "master.key", master)
        private, public = _native.signing_key_generate(CURVE)
        signing = public_key(strict_json.read_object(public), algorithm=ALGORITHM, operation="verify")
        durable.replace(folder / "signing.jwe", _wrap(master, private, purpose="signing", public=signing))
        origin = f"unlatch-gate/{thumbprint(signing)}"
        for name, key_name, kind in (
            ("log", origin, checkpoints.LOG_TYPE), ("clock", f"{origin}/clock", checkpoints.CLOCK_TYPE),
        ):  # fmt: skip
            seed = Secret.random(32)
            raw = _ed25519(seed).public_key().public_bytes_raw()
            vkey = str(VerifierKey(name=key_name, kind=kind, public=raw))
            durable.replace(folder / f"{name}.jwe", _wrap(master, seed, purpose=name, public=vkey))
        return cls(folder)

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
        blob = _wrap(self._master, private, purpose="exchange", public=key)
        return WrappedKey(kid=thumbprint(key), public=key, blob=blob)

    def store(self, key: WrappedKey) -> None:
        """Put a wrapped key on disk, durably."""
        durable.replace(self._key_path(key.kid), key.blob)

    def exchange_public(self, kid: str) -> dict[str, Any]:
        """The public half of a stored exchange key.

        Raises:
            ConfigError: no such key, or its file is damaged.
        """
        header, private = self._open("exchange", self._key_path(kid))
        private.wipe()
        public: dict[str, Any] = header["public"]
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

    def _open(self, purpose: str, path: Path) -> tuple[dict[str, Any], Secret]:
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        try:
            header = strict_json.read_object(base64url.decode(blob[:_MAX_BLOB_BYTES].split(b".")[0].decode()))
        except ValueError as error:
            raise ConfigError(f"{path} is no wrapped key") from error
        opened = _native.jwe_open(blob, self._master)
        facts: dict[str, Any] = header["unlatch"]
        if facts.get("purpose") != purpose:
            raise ConfigError(f"{path} holds a key for another purpose")
        return facts, opened

    def _verifier_key(self, name: str) -> VerifierKey:
        facts, seed = self._open(name, self._folder / f"{name}.jwe")
        seed.wipe()
        return VerifierKey.parse(facts["public"])

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


def _wrap(master: Secret, secret: Secret, *, purpose: str, public: object) -> bytes:
    header = rfc8785.dumps(
        {"alg": "dir", "enc": "A256GCM", "unlatch": {"purpose": purpose, "public": public}}  # type: ignore[dict-item]
    )
    return _native.jwe_seal(header, secret, master)


def _ed25519(seed: Secret) -> Ed25519PrivateKey:
    with seed.expose() as view:
        return Ed25519PrivateKey.from_private_bytes(view)


def _write_secret(path: Path, secret: Secret) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, durable.PRIVATE_FILE)
    try:
        secret.write_fd(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable.sync_folder(path.parent)


def _read_master(path: Path) -> Secret:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot read the master key {path}: {error.strerror}") from error
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            raise ConfigError(f"others may read the master key {path}", hint=f"chmod 600 {path}")
        master = Secret.read_fd(descriptor, MASTER_BYTES)
    finally:
        os.close(descriptor)
    if len(master) != MASTER_BYTES:
        raise ConfigError(f"the master key {path} is not {MASTER_BYTES} bytes long")
    return master
