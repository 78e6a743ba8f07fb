"""What a host signs when it asks, and what a gate says of it afterwards.

Rule 1: a proof is good for one point, one set of claims and one challenge of the gate, which is fresh.
Rule 2: a proof says which key asked and nothing else. Whether somebody enrolled that key is the gate's to know.
Rule 3: there is one way to write each value, so that nobody can change a proof without breaking it.

Pure. Keys are on P-256 (SEC 1, uncompressed), signatures are ES256 (RFC 7518 section 3.4: r ‖ s).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import rfc8785

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims

HEADER = "Unlatch-Identity"
CHALLENGE_HEADER = "Unlatch-Challenge"
POINT_BYTES, CHALLENGE_BYTES, SIGNATURE_BYTES = 65, 72, 64
MAX_HEADER_BYTES = 300  # 87 + 96 + 86 letters and two dots
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (FIPS 186-4 D.1.2.3). Of the two values of s that verify, only the lower one counts (`lowered`)."""

Protection = Literal["tpm", "file"]
PROTECTIONS: tuple[Protection, ...] = ("tpm", "file")

_DOMAIN = b"unlatch-host-v1\0"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{96}\Z")
_LINE = re.compile(r"unlatch-host-v1 (tpm|file) ([A-Za-z0-9_-]{87})(?: ([!-~]{1,253}))?\n?\Z")
_IDENTITY = re.compile(r"(?:(tpm|file) ([a-z0-9][a-z0-9._-]{0,63})|new) ([A-Za-z0-9_-]{43})\Z")


class ProofError(ValueError):
    """A host key, a proof or an identity is malformed, or a signature is wrong."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """The public half of a host's key: 65 bytes, 0x04 ‖ x ‖ y."""

    point: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 87 characters of base64url.

        Raises:
            ProofError: something else, or not a point of the curve.
        """
        try:
            point = base64url.decode(text)
        except ValueError as error:
            raise ProofError("a host key is not base64url") from error
        if len(point) != POINT_BYTES or point[0] != 4:
            raise ProofError(f"a host key is {POINT_BYTES} bytes and begins with 04")
        key = cls(point)
        key.check()
        return key

    @classmethod
    def of_jwk(cls, jwk: jose.Jwk) -> Self:
        """Read a public JWK on P-256.

        Raises:
            ProofError: something else.
        """
        try:
            x, y = (base64url.decode(str(jwk.get(name))) for name in ("x", "y"))
        except ValueError as error:
            raise ProofError("a host key is not base64url") from error
        if jwk.get("crv") != "P-256" or (len(x), len(y)) != (32, 32):
            raise ProofError("a host key is not on P-256")
        key = cls(b"\x04" + x + y)
        key.check()
        return key

    @property
    def thumbprint(self) -> str:
        """RFC 7638, SHA-256: how people and enrolments name the key."""
        x, y = (base64url.encode(self.point[at : at + 32]) for at in (1, 33))
        return jose.thumbprint({"kty": "EC", "crv": "P-256", "x": x, "y": y})

    def check(self) -> None:
        """Refuse a point off the curve.

        Raises:
            ProofError: it is none of P-256.
        """
        self._public()

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check an ES256 signature.

        Raises:
            ProofError: it is wrong.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        if len(signature) != SIGNATURE_BYTES:
            raise ProofError("a host's signature has another length")
        r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
        if s > ORDER // 2:
            raise ProofError("a host's signature is not written the one way")
        try:
            self._public().verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
        except InvalidSignature as error:
            raise ProofError("the host's signature is wrong") from error

    def _public(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.point)
        except ValueError as error:
            raise ProofError("a host key is no point of P-256") from error

    def __str__(self) -> str:
        return base64url.encode(self.point)


@dataclass(frozen=True, slots=True)
class PublicLine:
    """A host's public key as a line of text: for enrolling. `protection` is what the host says of its key."""

    protection: Protection
    key: HostKey
    comment: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the line.

        Raises:
            ProofError: it is none.
        """
        match = _LINE.match(text)
        if match is None:
            raise ProofError("not a host's public key")
        protection: Protection = "tpm" if match[1] == "tpm" else "file"
        return cls(protection, HostKey.parse(match[2]), match[3] or "")

    def __str__(self) -> str:
        return f"unlatch-host-v1 {self.protection} {self.key}{' ' if self.comment else ''}{self.comment}"


@dataclass(frozen=True, slots=True)
class Asking:
    """What a proof is about: one point at one key of one workload, with its claims."""

    workload: str
    kid: str
    point: str
    claims: bytes

    def message(self, challenge: str) -> bytes:
        """The bytes that a host signs.

        Args:
            challenge: as the gate gave it; it names the gate and the time.

        Raises:
            ValueError: the claims cannot be read.
        """
        claims = Claims.parse(self.claims)
        members = {
            "unlatch": 1, "workload": self.workload, "kid": self.kid, "point": self.point,
            "claims": base64url.digest(self.claims), "config_digest": claims.config_digest,
            "bundle_digest": claims.bundle_digest, "challenge": challenge,
        }  # fmt: skip
        return _DOMAIN + rfc8785.dumps(members)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Proof:
    """The header of a native request: a key, and once the gate gave a challenge, the signature over it."""

    key: HostKey
    challenge: str | None = None
    signature: bytes = b""

    @classmethod
    def parse(cls, header: str) -> Self:
        """Read ``KEY`` or ``KEY.CHALLENGE.SIGNATURE``.

        Raises:
            ProofError: something else.
        """
        key, *rest = header[: MAX_HEADER_BYTES + 1].split(".")
        if len(header) > MAX_HEADER_BYTES or len(rest) not in (0, 2):
            raise ProofError("not a host's proof")
        if not rest:
            return cls(HostKey.parse(key))
        check_challenge(rest[0])
        try:
            signature = base64url.decode(rest[1])
        except ValueError as error:
            raise ProofError("a host's signature is not base64url") from error
        if len(signature) != SIGNATURE_BYTES:
            raise ProofError("a host's signature has another length")
        return cls(HostKey.parse(key), rest[0], signature)

    def verify(self, asking: Asking) -> None:
        """Check the signature. Whether the challenge is the gate's and fresh is another question.

        Raises:
            ProofError: there is none, or it is not over this asking.
        """
        if self.challenge is None:
            raise ProofError("a proof without a signature")
        try:
            message = asking.message(self.challenge)
        except ValueError as error:
            raise ProofError("a proof over claims that cannot be read") from error
        self.key.verify(self.signature, message)

    def __str__(self) -> str:
        if self.challenge is None:
            return str(self.key)
        return f"{self.key}.{self.challenge}.{base64url.encode(self.signature)}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a gate found: an enrolled host's key, or one that nobody enrolled. `key` is its thumbprint."""

    key: str
    name: str | None = None
    protection: Protection | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``tpm NAME KEY``, ``file NAME KEY`` or ``new KEY``.

        Raises:
            ProofError: something else.
        """
        match = _IDENTITY.match(text)
        if match is None:
            raise ProofError("not an identity")
        if match[2] is None:
            return cls(match[3])
        return cls(match[3], match[2], "tpm" if match[1] == "tpm" else "file")

    @property
    def is_enrolled(self) -> bool:
        """Whether an administrator enrolled this key under a name."""
        return self.name is not None

    def __str__(self) -> str:
        return f"{self.protection} {self.name} {self.key}" if self.is_enrolled else f"new {self.key}"


def lowered(signature: bytes) -> bytes:
    """Give an ES256 signature with the lower one of its two values of s."""
    s = int.from_bytes(signature[32:], "big")
    return signature[:32] + min(s, ORDER - s).to_bytes(32, "big")


def check_challenge(text: str) -> None:
    """Refuse what cannot be a gate's challenge: 72 bytes in base64url.

    Raises:
        ProofError: something else.
    """
    if not _CHALLENGE.match(text):
        raise ProofError("not a gate's challenge")


def in_words(identity: str | None) -> str:
    """An identity as people read it: ``TPM key web1``, ``file key web1``, ``new`` or ``none``.

    Raises:
        ProofError: not an identity.
    """
    if identity is None:
        return "none"
    found = Identity.parse(identity)
    if found.name is None:
        return "new"
    return f"{'TPM' if found.protection == 'tpm' else 'file'} key {found.name}"


def described(identity: str | None) -> str:
    """An identity with what a person must know of it, for cards.

    Raises:
        ProofError: not an identity.
    """
    if identity is None:
        return "none: no key says which host this is"
    found = Identity.parse(identity)
    if not found.is_enrolled:
        return f"new: nobody enrolled the key {found.key}"
    return in_words(identity) + (" (copyable)" if found.protection == "file" else "")


def is_enrolled(identity: str | None) -> bool:
    """Whether an identity is an enrolled key's (no security meaning: keyholder checked it)."""
    return identity is not None and Identity.parse(identity).is_enrolled
