"""What a custodian agrees to have signed: a TLS server's handshake message, exactly as guard does.

Guard has checked it before; this is the second look, by the process that holds the key's handle. Pure.

* TLS 1.3 (RFC 8446 section 4.4.3): 64 times 0x20, "TLS 1.3, server CertificateVerify", 0, transcript hash.
* TLS 1.2 (RFC 5246 section 7.4.3, RFC 8422 section 5.4): two randoms, ECDHE parameters with a named curve.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec

Version = Literal["tls12", "tls13"]
Algorithm = Literal["rsa", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519"]
Padding = Literal["pss", "pkcs1"]

_TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
_RANDOM_BYTES = 64
_NAMED_CURVE = 3
_X25519 = 29
_GROUPS: dict[int, tuple[int, ec.EllipticCurve]] = {
    23: (65, ec.SECP256R1()),
    24: (97, ec.SECP384R1()),
    25: (133, ec.SECP521R1()),
}
_HASHES = ("sha256", "sha384", "sha512")


class NotAHandshakeError(ValueError):
    """Not a message that a TLS server signs."""


class SchemeError(ValueError):
    """A signature scheme that this key may not use in this version."""


@dataclass(frozen=True, slots=True)
class Method:
    """How to sign."""

    algorithm: Algorithm
    hash: str | None
    """None: Ed25519 hashes by itself."""
    padding: Padding | None = None

    def digest(self, message: bytes) -> bytes:
        """Hash a message."""
        assert self.hash is not None
        return hashlib.new(self.hash, message).digest()


def check(message: bytes) -> Version:
    """Say in which version a message stands.

    Raises:
        NotAHandshakeError: in none.
    """
    if message.startswith(_TLS13) and len(message) - len(_TLS13) in (32, 48):
        return "tls13"
    if _is_key_exchange(message):
        return "tls12"
    raise NotAHandshakeError


def method(algorithm: Algorithm, scheme: int, version: Version) -> Method:
    """Give the method for a scheme (RFC 8446 section 4.2.3).

    TLS 1.3 ties each ECDSA hash to one curve and knows no PKCS#1 in handshakes; TLS 1.2 allows both.

    Raises:
        SchemeError: key or version does not allow it.
    """
    if algorithm == "rsa":
        if 0x0804 <= scheme <= 0x0806:
            return Method(algorithm, _HASHES[scheme - 0x0804], "pss")
        if scheme in (0x0401, 0x0501, 0x0601) and version == "tls12":
            return Method(algorithm, _HASHES[(scheme >> 8) - 4], "pkcs1")
    elif algorithm == "ed25519":
        if scheme == 0x0807:
            return Method(algorithm, None)
    elif scheme in (0x0403, 0x0503, 0x0603):
        chosen = _HASHES[(scheme >> 8) - 4]
        own = _HASHES[("ecdsa-p256", "ecdsa-p384", "ecdsa-p521").index(algorithm)]
        if version == "tls12" or chosen == own:
            return Method(algorithm, chosen)
    raise SchemeError


def schemes_of(algorithm: Algorithm) -> tuple[int, ...]:
    """Every scheme that a kind of key knows."""
    if algorithm == "rsa":
        return (0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601)
    return (0x0807,) if algorithm == "ed25519" else (0x0403, 0x0503, 0x0603)


def _is_key_exchange(message: bytes) -> bool:
    parameters = message[_RANDOM_BYTES:]
    if len(parameters) < 5 or parameters[0] != _NAMED_CURVE or parameters[3] != len(parameters) - 4:
        return False
    group, point = int.from_bytes(parameters[1:3], "big"), parameters[4:]
    if group == _X25519:
        return len(point) == 32
    if group not in _GROUPS or len(point) != _GROUPS[group][0]:
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(_GROUPS[group][1], point)
    except ValueError:
        return False
    return True
