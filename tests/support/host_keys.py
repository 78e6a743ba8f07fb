"""Host keys in memory. TEST ONLY."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from unlatch.bootstrap.identity.proof import Asking, HostKey, Proof, Protection, PublicLine, lowered
from unlatch.errors import UnlatchError


@dataclass
class HostKeyInMemory:
    """Signs as a host's key does; `failure` is what it does instead."""

    protection: Protection = "file"
    failure: UnlatchError | None = None
    signed: list[bytes] = field(default_factory=list)
    _private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def public(self) -> HostKey:
        public = self._private.public_key()
        return HostKey(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    @property
    def line(self) -> PublicLine:
        return PublicLine(self.protection, self.public, "web1")

    def sign(self, message: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        self.signed.append(message)
        return lowered(self.sign_either(message))

    def sign_either(self, message: bytes) -> bytes:
        """A signature with one of the two values of s."""
        r, s = decode_dss_signature(self._private.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def prove(self, asking: Asking, challenge: str) -> str:
        """The header of a request."""
        return str(Proof(self.public, challenge, self.sign(asking.message(challenge))))
