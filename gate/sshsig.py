"""SSH signatures, verified by ourselves.

`ssh-keygen -Y verify` accepts a security key's signature that nobody touched the key for, so it cannot decide
here. This verifier reads the touch and verification flags and refuses a signature without touch.

Sources: OpenSSH PROTOCOL.sshsig and PROTOCOL.u2f; RFC 4253 section 6.6, RFC 5656, RFC 8332, RFC 8709.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from unlatch.errors import RefusedError

MAGIC = b"SSHSIG"
VERSION = 1
MAX_ARMOR_CHARACTERS = 16384
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384  # ssh-keygen makes no longer ones
MAX_RSA_EXPONENT_BITS = 32
TOUCHED = 0x01
VERIFIED = 0x04

_ARMOR = re.compile(r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)-----END SSH SIGNATURE-----\n?\Z")
_CURVES: dict[bytes, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    b"ecdsa-sha2-nistp256": (ec.SECP256R1(), hashes.SHA256()),
    b"ecdsa-sha2-nistp384": (ec.SECP384R1(), hashes.SHA384()),
    b"ecdsa-sha2-nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
_RSA: dict[bytes, hashes.HashAlgorithm] = {b"rsa-sha2-256": hashes.SHA256(), b"rsa-sha2-512": hashes.SHA512()}
_SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
_SK_ECDSA = b"sk-ecdsa-sha2-nistp256@openssh.com"


class SignatureError(RefusedError):
    """An SSH signature is malformed, by another key, for another purpose, wrong, or without touch."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An SSH public key in wire form (RFC 4253 section 6.6)."""

    blob: bytes

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read ``TYPE BASE64 [COMMENT]``, a line of a .pub file.

        Raises:
            SignatureError: not one key of a kind that may sign here, or an RSA key under 2048 bits.
        """
        fields = line.strip().split(None, 2)
        if len(fields) < 2 or "\n" in line.strip():
            raise SignatureError("not an SSH public key")
        try:
            key = cls(base64.b64decode(fields[1].encode(), validate=True))
        except binascii.Error as error:
            raise SignatureError("not an SSH public key") from error
        if key.kind != fields[0].encode():
            raise SignatureError("an SSH public key of another type than it says")
        _load(key)
        return key

    @property
    def kind(self) -> bytes:
        """The key's type name."""
        return _Reader(self.blob).string()

    @property
    def fingerprint(self) -> str:
        """``SHA256:…`` as ssh-keygen -l prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).rstrip(b"=").decode()

    def __str__(self) -> str:
        return f"{self.kind.decode()} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that was verified: by which key, and what a security key said about its user.

    For keys that are no security keys `touched` and `verified` are None.
    """

    key: PublicKey
    touched: bool | None
    verified: bool | None


def verify_sshsig(armored: str, message: bytes, *, namespace: str) -> Signature:
    """Check a signature over a message and give its key. Whose key it is, and whether he may, is the caller's question.

    Args:
        armored: as ``ssh-keygen -Y sign`` writes it.
        namespace: the one purpose that is accepted.

    Raises:
        SignatureError: says what is wrong.
    """
    reader = _Reader(_dearmor(armored))
    if reader.take(len(MAGIC)) != MAGIC or reader.uint32() != VERSION:
        raise SignatureError("not an SSH signature of version 1")
    key = PublicKey(reader.string())
    signed_namespace, reserved, hash_name, signature = (
        reader.string(),
        reader.string(),
        reader.string(),
        reader.string(),
    )
    reader.end()
    if signed_namespace != namespace.encode():
        raise SignatureError("an SSH signature for another purpose")
    if hash_name not in (b"sha256", b"sha512"):
        raise SignatureError("an SSH signature with another hash than SHA-256 or SHA-512")
    digest = hashlib.new(hash_name.decode(), message).digest()
    data = MAGIC + b"".join(pack(field) for field in (signed_namespace, reserved, hash_name, digest))
    return _verify(key, signature, data)


def pack(data: bytes) -> bytes:
    """An SSH string: 4 bytes length, then the bytes."""
    return len(data).to_bytes(4, "big") + data


def armor(blob: bytes) -> str:
    """The text form of a signature blob, 70 characters a line as ssh-keygen writes it."""
    text = base64.b64encode(blob).decode()
    lines = "\n".join(text[start : start + 70] for start in range(0, len(text), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n"


def _dearmor(armored: str) -> bytes:
    match = _ARMOR.match(armored) if len(armored) <= MAX_ARMOR_CHARACTERS else None
    if match is None:
        raise SignatureError("not an SSH signature")
    try:
        return base64.b64decode(match[1].replace("\n", ""), validate=True)
    except binascii.Error as error:
        raise SignatureError("not an SSH signature") from error


def _verify(key: PublicKey, signature: bytes, data: bytes) -> Signature:
    reader = _Reader(signature)
    kind, raw = reader.string(), reader.string()
    is_sk = key.kind in (_SK_ED25519, _SK_ECDSA)
    flags = 0
    if is_sk:
        flags, counter = reader.take(1)[0], reader.take(4)
        data = (
            hashlib.sha256(_application(key)).digest()
            + bytes([flags])
            + counter
            + hashlib.sha256(data).digest()
        )
    reader.end()
    # An ssh-rsa key signs as rsa-sha2-*: the type ssh-rsa itself means SHA-1 (RFC 8332 section 3).
    if kind not in _RSA if key.kind == b"ssh-rsa" else kind != key.kind:
        raise SignatureError("an SSH signature of another type than its key")
    try:
        _verify_raw(_load(key), kind, raw, data)
    except InvalidSignature as error:
        raise SignatureError("the SSH signature is wrong") from error
    if is_sk and not flags & TOUCHED:
        raise SignatureError("the security key signed without touch")
    return Signature(
        key=key,
        touched=bool(flags & TOUCHED) if is_sk else None,
        verified=bool(flags & VERIFIED) if is_sk else None,
    )


def _verify_raw(public: object, kind: bytes, raw: bytes, data: bytes) -> None:
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(raw, data)
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(raw, data, padding.PKCS1v15(), _RSA[kind])
    elif isinstance(public, ec.EllipticCurvePublicKey):
        reader = _Reader(raw)
        r, s = reader.mpint(), reader.mpint()
        reader.end()
        algorithm = hashes.SHA256() if kind == _SK_ECDSA else _CURVES[kind][1]
        public.verify(encode_dss_signature(r, s), data, ec.ECDSA(algorithm))


def _load(key: PublicKey) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey:
    reader = _Reader(key.blob)
    kind = reader.string()
    try:
        if kind in (b"ssh-ed25519", _SK_ED25519):
            public = ed25519.Ed25519PublicKey.from_public_bytes(reader.string())
            _end_of_key(reader, kind)
            return public
        if kind == b"ssh-rsa":
            exponent, modulus = reader.mpint(), reader.mpint()
            reader.end()
            _check_rsa(exponent, modulus)
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if kind in _CURVES or kind == _SK_ECDSA:
            curve = ec.SECP256R1() if kind == _SK_ECDSA else _CURVES[kind][0]
            if reader.string() != kind.split(b"@")[0].rpartition(b"-")[2]:
                raise SignatureError("an SSH key of another curve than it says")
            encoded = reader.string()
            if encoded[:1] != b"\x04":  # a compressed point would give one key two names
                raise SignatureError("not an SSH public key")
            point = ec.EllipticCurvePublicKey.from_encoded_point(curve, encoded)
            _end_of_key(reader, kind)
            return point
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("not an SSH public key") from error
    raise SignatureError("an SSH key of a kind that may not sign here")


def _check_rsa(exponent: int, modulus: int) -> None:
    """Refuse what is too weak, and what would keep a verifier busy: strangers choose the key of their signature."""
    bits = modulus.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise SignatureError(f"an RSA key of {bits} bits: {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")
    if exponent.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise SignatureError("an RSA key with a huge exponent")


def _end_of_key(reader: _Reader, kind: bytes) -> None:
    if kind in (_SK_ED25519, _SK_ECDSA):
        reader.string()
    reader.end()


def _application(key: PublicKey) -> bytes:
    reader = _Reader(key.blob)
    for _ in range(3 if key.kind == _SK_ECDSA else 2):
        reader.string()
    return reader.string()


class _Reader:
    """Reads the SSH wire format (RFC 4251 section 5)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise SignatureError("an SSH structure is cut short")
        self._at += count
        return piece

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def mpint(self) -> int:
        data = self.string()
        if data and (data[0] & 0x80 or (data[0] == 0 and (len(data) == 1 or not data[1] & 0x80))):
            raise SignatureError("an SSH number is negative or padded")
        return int.from_bytes(data, "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise SignatureError("an SSH structure with bytes left over")
