"""Who asks: a key of the host that signs the receipt of its request, so that the card can say which machine it is.

A receipt already binds request, point, claims and the gate's nonce under the gate's signature; the host signs its digest.
The gate compares the key with the one that was enrolled: a key in a TPM cannot be copied, one in a file can, and the card
says which it is. What a host says about its own key's kind is a claim; what an operator enrolled is not.

Pure, but for `load` and `create`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from unlatch.bootstrap import files, jose
from unlatch.errors import ConfigError, RefusedError

Kind = Literal["tpm", "file"]
NAMESPACE = b"unlatch-host-v1\0"
"""No receipt and no other statement begins so."""
MAX_KEY_FILE_BYTES = 16 * 1024


class UnprovenHostError(RefusedError):
    """A proof that is none, or of another key."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A host's signature under a receipt."""

    kind: Kind
    spki: bytes
    """SubjectPublicKeyInfo in DER, P-256."""
    signature: bytes

    @property
    def fingerprint(self) -> str:
        """Names the host's key: SHA-256 of its SPKI, base64url."""
        return fingerprint(self.spki)

    def as_json(self) -> dict[str, str]:
        """For a request's body."""
        return {"kind": self.kind, "key": jose.encode(self.spki), "signature": jose.encode(self.signature)}

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what `as_json` wrote.

        Raises:
            UnprovenHostError: it is something else.
        """
        if not isinstance(value, Mapping) or value.get("kind") not in ("tpm", "file"):
            raise UnprovenHostError("host's proof: kind is not tpm or file")
        texts = (value.get("key"), value.get("signature"))
        if not all(isinstance(text, str) for text in texts):
            raise UnprovenHostError("host's proof: no key or signature")
        try:
            key, signature = (jose.decode(str(text)) for text in texts)
        except ValueError as error:
            raise UnprovenHostError("host's proof: not base64url") from error
        return cls(value["kind"], key, signature)


def verify(proof: Proof, receipt: bytes, *, enrolled: bytes) -> None:
    """Check that the enrolled host signed this receipt.

    Args:
        proof: what the host sent.
        receipt: the compact JWS that the gate gave it.
        enrolled: SPKI of the host's key, as an operator enrolled it.

    Raises:
        UnprovenHostError: another key, or not its signature.
    """
    if proof.spki != enrolled:
        raise UnprovenHostError(f"host's key is {proof.fingerprint}, enrolled is {fingerprint(enrolled)}")
    try:
        key = serialization.load_der_public_key(proof.spki)
    except ValueError as error:
        raise UnprovenHostError("host's key is no public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnprovenHostError("host's key is not on P-256")
    try:
        key.verify(proof.signature, statement(receipt), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise UnprovenHostError("the host did not sign this receipt") from error


def statement(receipt: bytes) -> bytes:
    """Give what a host signs."""
    return NAMESPACE + hashlib.sha256(receipt).digest()


def fingerprint(spki: bytes) -> str:
    """Name a key."""
    return jose.encode(hashlib.sha256(spki).digest())


class Identity(Protocol):
    """A host's key."""

    @property
    def kind(self) -> Kind:
        """Where it lies."""
        ...

    @property
    def spki(self) -> bytes:
        """Its public half."""
        ...

    def prove(self, receipt: bytes) -> Proof:
        """Sign a receipt."""
        ...


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A key in a file: whoever copies the file is this host."""

    key: ec.EllipticCurvePrivateKey
    kind: Kind = "file"

    @property
    def spki(self) -> bytes:
        """Its public half."""
        return _spki(self.key.public_key())

    def prove(self, receipt: bytes) -> Proof:
        """Sign a receipt."""
        return Proof("file", self.spki, self.key.sign(statement(receipt), ec.ECDSA(hashes.SHA256())))


@dataclass(frozen=True, slots=True)
class TpmIdentity:
    """A key that one TPM wrapped: the file is worth nothing elsewhere."""

    pem: bytes
    tcti: str | None = None
    kind: Kind = "tpm"

    @property
    def spki(self) -> bytes:
        """Its public half, from the file."""
        from unlatch.memguard.custodian.tpm_public import public_key_of
        from unlatch.memguard.custodian.workbench import read_tpm_key

        try:
            public = public_key_of(read_tpm_key(self.pem).public)
        except ValueError as error:
            raise ConfigError(f"host's key: {error}") from error
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise ConfigError("host's key is not on P-256", hint="unlatch host enroll makes one")
        return _spki(public)

    def prove(self, receipt: bytes) -> Proof:
        """Have the TPM sign a receipt."""
        from unlatch.memguard.custodian.handshake import Method
        from unlatch.memguard.custodian.workbench import in_tpm, read_tpm_key

        with in_tpm(read_tpm_key(self.pem), name="host's key", tcti=self.tcti) as found:
            signature = found.signer.sign(found.key, Method("ecdsa-p256", "sha256"), statement(receipt))
        return Proof("tpm", self.spki, signature)


def load(path: Path) -> Identity:
    """Read a host's key file.

    Raises:
        ConfigError: it is none.
    """
    try:
        data = path.read_bytes()[: MAX_KEY_FILE_BYTES + 1]
    except OSError as error:
        raise ConfigError(
            f"cannot read the host's key: {error.strerror}, {path}", hint="unlatch host enroll --out FILE"
        ) from error
    if b"-----BEGIN TSS2 PRIVATE KEY-----" in data:
        return TpmIdentity(data)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no host's key", hint="unlatch host enroll --out FILE") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: the key is not on P-256", hint="unlatch host enroll --out FILE")
    return FileIdentity(key)


def create(path: Path, *, in_tpm: bool, force: bool = False) -> Identity:
    """Make a host's key file, mode 0600.

    Raises:
        ConfigError: the file exists, or there is no TPM.
        UnlatchError: as the TPM says.
    """
    files.refuse_existing(path, force=force)
    if in_tpm:
        from unlatch.memguard.custodian import keyfile
        from unlatch.memguard.custodian.tpm_keys import make_key

        pem = keyfile.write_tpm(make_key("ecc"))
    else:
        shape = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(*shape)
    files.write(path, pem, force=force)
    return load(path)


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
