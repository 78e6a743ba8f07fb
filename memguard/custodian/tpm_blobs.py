"""TPM 2.0 structures as bytes: templates, PCR selections and policy digests, without a TPM.

Pure. Sources: TPM 2.0 Library part 2 (structures) and part 3 (policy commands); clevis 19 and tpm2-tools 5.4 for the
templates, checked against tests/vectors/clevis_tpm2.json.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

HASHES: Final = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
"""TPM_ALG_ID by name."""
CURVES: Final = {"ecc": 0x0003, "ecc256": 0x0003, "ecc384": 0x0004, "ecc521": 0x0005}
MODULI: Final = {"rsa": 2048, "rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
PCR_COUNT: Final = 24

TPM_ALG_RSA, TPM_ALG_KEYEDHASH, TPM_ALG_NULL, TPM_ALG_ECC = 0x0001, 0x0008, 0x0010, 0x0023
_AES_128_CFB = struct.pack(">HHH", 0x0006, 128, 0x0043)
_NULL = struct.pack(">H", TPM_ALG_NULL)

FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA = 1 << 6, 1 << 7, 1 << 10
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
_PRIMARY = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | RESTRICTED | DECRYPT
_SEALED = FIXED_TPM | FIXED_PARENT | ADMIN_WITH_POLICY | NO_DA
_SIGNING = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | SIGN

_CC_POLICY_NV, _CC_POLICY_AUTHORIZE, _CC_POLICY_PCR = 0x149, 0x16A, 0x17F
_UNSIGNED_LE: Final = 0x0009


def tpm2b(data: bytes) -> bytes:
    """Write a sized buffer: two bytes of length, then the data."""
    return struct.pack(">H", len(data)) + data


def primary_template(key: str, hash_name: str, *, no_da: bool = False) -> bytes:
    """Write the storage primary's template (TPM2B_PUBLIC), as `tpm2_createprimary -G KEY -g HASH` does.

    Args:
        key: "ecc", "ecc256", "ecc384", "ecc521", "rsa", "rsa2048", "rsa3072" or "rsa4096".
        hash_name: name algorithm.
        no_da: exempt from dictionary attack protection, as tpm2-openssl's parents are.

    Raises:
        KeyError: an unknown name.
    """
    attributes = _PRIMARY | (NO_DA if no_da else 0)
    return _template(key, hash_name, attributes, symmetric=_AES_128_CFB)


def signing_template(key: str) -> bytes:
    """Write a signing key's template (TPM2B_PUBLIC): scheme and hash are chosen per signature.

    Raises:
        KeyError: an unknown name.
    """
    return _template(key, "sha256", _SIGNING, symmetric=_NULL)


def sealed_template(hash_name: str, policy: bytes) -> bytes:
    """Write a sealed object's template; with an empty policy its (empty) password opens it."""
    attributes = _SEALED | (0 if policy else USER_WITH_AUTH)
    head = struct.pack(">HHI", TPM_ALG_KEYEDHASH, HASHES[hash_name], attributes)
    return tpm2b(head + tpm2b(policy) + _NULL + tpm2b(b""))


def pcr_selection(bank: str, indices: Sequence[int]) -> bytes:
    """Write a TPML_PCR_SELECTION of one bank, three bytes wide."""
    bits = sum(1 << index for index in set(indices))
    return struct.pack(">IHB", 1, HASHES[bank], 3) + bits.to_bytes(3, "little")


def digest_size(hash_name: str) -> int:
    """Size of a digest in bytes."""
    return hashlib.new(hash_name, usedforsecurity=False).digest_size


def empty_policy(hash_name: str) -> bytes:
    """The digest that every policy begins with."""
    return bytes(digest_size(hash_name))


def after_pcrs(policy: bytes, hash_name: str, bank: str, indices: Sequence[int], values: bytes) -> bytes:
    """Give the policy digest after TPM2_PolicyPCR.

    Args:
        policy: digest so far.
        hash_name: of the policy session.
        bank: of the PCRs.
        indices: which PCRs.
        values: their raw values concatenated in ascending order.
    """
    state = _digest(hash_name, values)
    command = struct.pack(">I", _CC_POLICY_PCR)
    return _digest(hash_name, policy + command + pcr_selection(bank, indices) + state)


def after_counter(policy: bytes, hash_name: str, name: bytes, epoch: int) -> bytes:
    """Give the policy digest after TPM2_PolicyNV: the counter named `name` is at most `epoch`."""
    arguments = _digest(hash_name, epoch_operand(epoch) + struct.pack(">HH", 0, _UNSIGNED_LE))
    return _digest(hash_name, policy + struct.pack(">I", _CC_POLICY_NV) + arguments + name)


def epoch_operand(epoch: int) -> bytes:
    """Write an epoch as a TPM counter holds it."""
    return struct.pack(">Q", epoch)


def authorized(hash_name: str, key_name: bytes, reference: bytes) -> bytes:
    """Give the policy digest after TPM2_PolicyAuthorize: whatever the key of this name signs for `reference`."""
    command = struct.pack(">I", _CC_POLICY_AUTHORIZE)
    return _digest(hash_name, _digest(hash_name, empty_policy(hash_name) + command + key_name) + reference)


def object_name(public_area: bytes, hash_name: str = "sha256") -> bytes:
    """Give an object's name from its TPMT_PUBLIC or TPMS_NV_PUBLIC."""
    return struct.pack(">H", HASHES[hash_name]) + _digest(hash_name, public_area)


def policy_key_public(curve_point: tuple[bytes, bytes]) -> bytes:
    """Write the TPMT_PUBLIC of an outside P-256 key that signs policies, as TPM2_LoadExternal takes it."""
    head = struct.pack(">HHI", TPM_ALG_ECC, HASHES["sha256"], SIGN | USER_WITH_AUTH)
    scheme = struct.pack(">HHHHH", TPM_ALG_NULL, 0x0018, HASHES["sha256"], CURVES["ecc"], TPM_ALG_NULL)
    x, y = curve_point
    return head + tpm2b(b"") + scheme + tpm2b(x) + tpm2b(y)


def _template(key: str, hash_name: str, attributes: int, *, symmetric: bytes) -> bytes:
    if key in CURVES:
        kind, unique = TPM_ALG_ECC, tpm2b(b"") * 2
        parameters = symmetric + _NULL + struct.pack(">H", CURVES[key]) + _NULL
    else:
        kind, unique = TPM_ALG_RSA, tpm2b(b"")
        parameters = symmetric + _NULL + struct.pack(">HI", MODULI[key], 0)
    head = struct.pack(">HHI", kind, HASHES[hash_name], attributes)
    return tpm2b(head + tpm2b(b"") + parameters + unique)


def _digest(hash_name: str, data: bytes) -> bytes:
    return hashlib.new(hash_name, data, usedforsecurity=False).digest()
