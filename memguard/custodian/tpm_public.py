"""Public keys and signatures as a TPM writes them, turned into what everybody else reads.

Pure; apart from `tpm_blobs`, which starts faster.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from unlatch.memguard.custodian.tpm_blobs import RESTRICTED, SIGN, TPM_ALG_ECC, TPM_ALG_NULL, TPM_ALG_RSA

_EC: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}


def public_key_of(public: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """Read the public key of an unrestricted signing key from its TPM2B_PUBLIC.

    Raises:
        ValueError: it is cut short, of another kind, or may not sign.
    """
    try:
        (size,) = struct.unpack_from(">H", public)
        kind, _, attributes = struct.unpack_from(">HHI", public, 2)
        policy, at = _sized(public, 10)
        if size + 2 != len(public) or policy or not attributes & SIGN or attributes & RESTRICTED:
            raise ValueError("not the public area of a key that signs freely")
        symmetric, scheme = struct.unpack_from(">HH", public, at)
        if symmetric != TPM_ALG_NULL:
            raise ValueError("a key with a symmetric algorithm is a storage key")
        at += 4 if scheme == TPM_ALG_NULL else 6
        if kind == TPM_ALG_RSA:
            _, exponent = struct.unpack_from(">HI", public, at)
            modulus, _ = _sized(public, at + 6)
            return rsa.RSAPublicNumbers(exponent or 65537, int.from_bytes(modulus, "big")).public_key()
        if kind == TPM_ALG_ECC:
            curve, _ = struct.unpack_from(">HH", public, at)
            x, at = _sized(public, at + 4)
            y, _ = _sized(public, at)
            numbers = (int.from_bytes(x, "big"), int.from_bytes(y, "big"))
            return ec.EllipticCurvePublicNumbers(*numbers, _EC[curve]).public_key()
    except (struct.error, KeyError) as error:
        raise ValueError("TPM public area is cut short or of an unknown kind") from error
    raise ValueError("TPM key is neither RSA nor ECC")


def signature_of(data: bytes, *, is_rsa: bool) -> bytes:
    """Turn the inside of a TPMT_SIGNATURE into TLS's form."""
    first, at = _sized(data, 0)
    if is_rsa:
        return first
    second, _ = _sized(data, at)
    return utils.encode_dss_signature(int.from_bytes(first, "big"), int.from_bytes(second, "big"))


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(">H", data, at)
    end = at + 2 + size
    if end > len(data):
        raise ValueError("TPM public area is cut short")
    return data[at + 2 : end], end
