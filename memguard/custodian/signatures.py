"""Public keys and signatures as TLS has them: told apart, turned into TLS's form, and checked before they leave.

Pure. A token that signs wrongly (a fault in hardware can give an RSA key away) is found out here.
"""

from __future__ import annotations

from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from unlatch.errors import ConfigError
from unlatch.memguard.custodian.handshake import Algorithm, Method

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_CURVES: dict[str, Algorithm] = {
    "secp256r1": "ecdsa-p256",
    "secp384r1": "ecdsa-p384",
    "secp521r1": "ecdsa-p521",
}
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""RFC 8017 section 9.2, note 1: what PKCS#1 v1.5 puts before a digest."""


class WrongSignatureError(ValueError):
    """A signature that the key's public half does not verify."""


def algorithm_of(key: PublicKey) -> Algorithm:
    """Name a key's kind.

    Raises:
        ConfigError: TLS servers do not use such a key.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return "rsa"
        raise ConfigError(f"RSA key of {key.key_size} bits: expected {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    name = _CURVES.get(key.curve.name)
    if name is None:
        raise ConfigError(f"curve {key.curve.name} is not used by TLS servers")
    return name


def from_halves(raw: bytes) -> bytes:
    """Turn r and s of equal length into TLS's DER.

    Raises:
        WrongSignatureError: an odd length, or nothing.
    """
    if not raw or len(raw) % 2:
        raise WrongSignatureError
    half = len(raw) // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def verify(key: PublicKey, method: Method, message: bytes, signature: bytes) -> None:
    """Check a signature in TLS's form.

    Raises:
        WrongSignatureError: it is not this key's.
    """
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
            return
        digest = _HASHES[cast("str", method.hash)]()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(digest))
        elif method.padding == "pss":
            # TLS wants a salt as long as the hash (RFC 8446 section 4.2.3).
            scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(signature, message, scheme, digest)
        else:
            key.verify(signature, message, padding.PKCS1v15(), digest)
    except InvalidSignature as error:
        raise WrongSignatureError from error
