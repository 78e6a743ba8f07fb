"""PCR values that a policy key signed: read, written, and signed, without a TPM.

A file holds any number of them, `{"unlatch_signed_pcrs": 1, "signed": [{…}]}`; the one that fits the machine is used.
What is signed is the policy digest (TPM 2.0 Library part 3, TPM2_PolicyAuthorize): SHA-256 of the digest and of the
reference's digest. The file needs no protection: the TPM checks every signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.tpm2_header import parse_pcr_ids
from unlatch.errors import ConfigError
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian import tpm_policy

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

VERSION = 1
HASH = "sha256"
"""Of policy sessions for signed values."""
MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class SignedPcrs:
    """One set of values, and who signed it for what."""

    bank: str
    pcrs: tuple[int, ...]
    values: bytes
    """Raw PCR values one after the other, ascending."""
    epoch: int | None
    """Good while the TPM's epoch counter is not higher; None: for ever."""
    reference: str
    signature: tuple[bytes, bytes]
    """r and s of ECDSA on P-256, 32 bytes each."""

    @property
    def policy(self) -> bytes:
        """The policy digest that the TPM must come to."""
        return policy_digest(self.bank, self.pcrs, self.values, self.epoch)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read one entry.

        Raises:
            ConfigError: a member is missing or wrong.
        """
        if not isinstance(value, dict):
            raise _wrong("an entry is no object")
        bank, epoch, reference = value.get("bank"), value.get("epoch"), value.get("for", "")
        if not isinstance(bank, str) or bank not in blobs.HASHES or not isinstance(reference, str):
            raise _wrong("bank or for")
        if epoch is not None and (type(epoch) is not int or not 0 <= epoch < 1 << 63):
            raise _wrong("epoch")
        try:
            pcrs = parse_pcr_ids(str(value.get("pcrs")))
            values, signature = (jose.decode(str(value.get(name))) for name in ("values", "signature"))
        except ValueError as error:
            raise _wrong(str(error)) from error
        if len(values) != len(set(pcrs)) * blobs.digest_size(bank) or len(signature) != 64:
            raise _wrong("values or signature has another length")
        return cls(bank, pcrs, values, epoch, reference, (signature[:32], signature[32:]))

    def as_json(self) -> dict[str, object]:
        """Write one entry."""
        return {
            "bank": self.bank,
            "epoch": self.epoch,
            "for": self.reference,
            "pcrs": ",".join(map(str, self.pcrs)),
            "signature": jose.encode(b"".join(self.signature)),
            "values": jose.encode(self.values),
        }


def policy_digest(bank: str, pcrs: Sequence[int], values: bytes, epoch: int | None) -> bytes:
    """Give the digest of: the epoch counter is at most `epoch`, and the PCRs have these values."""
    digest = blobs.empty_policy(HASH)
    if epoch is not None:
        digest = blobs.after_counter(digest, HASH, tpm_policy.COUNTER_NAME, epoch)
    return blobs.after_pcrs(digest, HASH, bank, pcrs, values)


def sign(
    key: EllipticCurvePrivateKey,
    bank: str,
    pcrs: Sequence[int],
    values: bytes,
    *,
    epoch: int | None,
    reference: str,
) -> SignedPcrs:
    """Sign PCR values with a policy key on P-256."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    digest = policy_digest(bank, pcrs, values, epoch)
    message = hashlib.sha256(digest + tpm_policy.reference_digest(reference)).digest()
    signature = key.sign(message, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    r, s = utils.decode_dss_signature(signature)
    return SignedPcrs(
        bank, tuple(pcrs), values, epoch, reference, (r.to_bytes(32, "big"), s.to_bytes(32, "big"))
    )


def read_public_key(pem: bytes) -> bytes:
    """Read a policy key's public half from PEM; gives SubjectPublicKeyInfo in DER.

    Raises:
        ConfigError: it is none, or not on P-256.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise ConfigError(
            "no public key in PEM", hint="unlatch tpm policy make-key --out FILE makes FILE and FILE.pub"
        ) from error
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    tpm_policy.authority_public(spki)
    return spki


def read(data: bytes) -> list[SignedPcrs]:
    """Read a file of signed values.

    Raises:
        ConfigError: it is none.
    """
    try:
        value = jose.read_json(data)
    except ValueError as error:
        raise _wrong("not JSON") from error
    if not isinstance(value, Mapping) or value.get("unlatch_signed_pcrs") != VERSION:
        raise _wrong(f"no unlatch_signed_pcrs of version {VERSION}")
    entries = value.get("signed")
    if not isinstance(entries, list):
        raise _wrong("signed is no list")
    return [SignedPcrs.parse(entry) for entry in entries]


def write(entries: Iterable[SignedPcrs]) -> bytes:
    """Write a file of signed values."""
    return (
        jose.write_json({"unlatch_signed_pcrs": VERSION, "signed": [one.as_json() for one in entries]})
        + b"\n"
    )


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"signed PCR values: {what}", hint="unlatch tpm policy sign writes such files")
