"""What a header says about a TPM: clevis's tpm2 pin, and ours for PCR values that an authority signs.

Pure. Everything here is public; the TPM itself checks it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from unlatch.bootstrap.pins.members import ALTERED, blob, member, text
from unlatch.errors import DamagedFileError
from unlatch.memguard.custodian import tpm_blobs as blobs

SIGNED_PIN = "unlatch-tpm2"
"""Real clevis has no program of this name: it cannot follow signed PCR values."""
MAX_BLOB_BYTES = 2048
"""A sealed key has 250 bytes, its public area 120; TPM2B_PRIVATE itself ends at 1400."""
_PCR_IDS = re.compile(r"[0-9]{1,2}(,[0-9]{1,2})*")


@dataclass(frozen=True, slots=True)
class Tpm2Pin:
    """A key sealed by one TPM."""

    hash: str
    """Name algorithm of parent and object, and of the policy session."""
    key: str
    """Kind of the parent: "ecc", "rsa", "ecc384", …"""
    public: bytes
    """TPM2B_PUBLIC."""
    private: bytes
    """TPM2B_PRIVATE."""
    bank: str | None = None
    pcrs: tuple[int, ...] = ()
    """As the header lists them; the TPM sorts."""
    authority: bytes | None = None
    """SubjectPublicKeyInfo of the key that signs PCR values; None: the values at sealing count."""
    reference: str = ""
    """What the authority's signature must be for."""

    @property
    def needs(self) -> str:
        """What must hold for it to open, in words."""
        if self.authority is not None:
            return "its PCRs have values that the policy key signed"
        if self.pcrs:
            return f"its PCRs {self.bank}:{','.join(map(str, self.pcrs))} are as they were at sealing"
        return "no PCR is looked at"


def parse_tpm2(header: Mapping[str, object]) -> Tpm2Pin:
    """Read clevis's tpm2 pin.

    Raises:
        DamagedFileError: a member is missing or wrong.
    """
    return _parse(member(member(header, "clevis"), "tpm2"), "tpm2")


def parse_signed(header: Mapping[str, object]) -> Tpm2Pin:
    """Read our pin for signed PCR values; members as in clevis's, with `authority` and `reference`.

    Raises:
        DamagedFileError: a member is missing or wrong.
    """
    holder = member(member(header, "clevis"), SIGNED_PIN)
    pin = _parse(holder, SIGNED_PIN)
    authority, reference = (
        blob(holder, "authority", pin=SIGNED_PIN),
        text(holder, "reference", pin=SIGNED_PIN),
    )
    return Tpm2Pin(pin.hash, pin.key, pin.public, pin.private, None, (), authority, reference)


def parse_pcr_ids(given: str) -> tuple[int, ...]:
    """Read PCR numbers as a header lists them.

    Raises:
        ValueError: something else than numbers from 0 to 23 with commas between.
    """
    if not _PCR_IDS.fullmatch(given):
        raise ValueError("not a list of PCR numbers")
    indices = tuple(map(int, given.split(",")))
    if max(indices) >= blobs.PCR_COUNT:
        raise ValueError(f"a PCR number over {blobs.PCR_COUNT - 1}")
    return indices


def _parse(holder: Mapping[str, object], pin: str) -> Tpm2Pin:
    hash_name, key = text(holder, "hash", pin=pin), text(holder, "key", pin=pin)
    if hash_name not in blobs.HASHES:
        raise DamagedFileError(f"{pin}: hash is not one of {', '.join(blobs.HASHES)}", hint=ALTERED)
    if key not in blobs.CURVES | blobs.MODULI:
        raise DamagedFileError(
            f"{pin}: key is not one of {', '.join(blobs.CURVES | blobs.MODULI)}", hint=ALTERED
        )
    public, private = blob(holder, "jwk_pub", pin=pin), blob(holder, "jwk_priv", pin=pin)
    if not public or not private or max(len(public), len(private)) > MAX_BLOB_BYTES:
        raise DamagedFileError(f"{pin}: jwk_pub or jwk_priv is empty or too long", hint=ALTERED)
    if "pcr_ids" not in holder:
        return Tpm2Pin(hash_name, key, public, private)
    bank = text(holder, "pcr_bank", pin=pin)
    if bank not in blobs.HASHES:
        raise DamagedFileError(f"{pin}: pcr_bank is not one of {', '.join(blobs.HASHES)}", hint=ALTERED)
    try:
        indices = parse_pcr_ids(text(holder, "pcr_ids", pin=pin))
    except ValueError as error:
        raise DamagedFileError(f"{pin}: pcr_ids is {error}", hint=ALTERED) from error
    return Tpm2Pin(hash_name, key, public, private, bank, indices)
