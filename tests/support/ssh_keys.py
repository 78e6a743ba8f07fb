"""SSH keys in memory, security keys among them, that sign as `ssh-keygen -Y sign` does. TEST ONLY."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from unlatch.gate.sshsig import MAGIC, TOUCHED, PublicKey, armor, pack

CURVES = {"nistp256": ec.SECP256R1(), "nistp384": ec.SECP384R1(), "nistp521": ec.SECP521R1()}
HASHES = {"nistp256": hashes.SHA256(), "nistp384": hashes.SHA384(), "nistp521": hashes.SHA512()}
KINDS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
APPLICATION = b"ssh:"


def mpint(number: int) -> bytes:
    """An SSH number."""
    return pack(number.to_bytes(number.bit_length() // 8 + 1, "big") if number else b"")


@dataclass(frozen=True)
class SshKey:
    """A key of one kind, made at random (RSA: 2048 bits unless said otherwise)."""

    kind: str = "ssh-ed25519"
    rsa_bits: int = 2048

    @property
    def is_security_key(self) -> bool:
        return self.kind.startswith("sk-")

    @property
    def curve(self) -> str:
        return self.kind.split("@")[0].rpartition("-")[2]

    @cached_property
    def private(self) -> Any:
        if "ed25519" in self.kind:
            return ed25519.Ed25519PrivateKey.generate()
        if self.kind == "ssh-rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=self.rsa_bits)
        return ec.generate_private_key(CURVES[self.curve])

    @cached_property
    def blob(self) -> bytes:
        public = self.private.public_key()
        if "ed25519" in self.kind:
            fields = pack(public.public_bytes_raw())
        elif self.kind == "ssh-rsa":
            numbers = public.public_numbers()
            fields = mpint(numbers.e) + mpint(numbers.n)
        else:
            point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            fields = pack(self.curve.encode()) + pack(point)
        application = pack(APPLICATION) if self.is_security_key else b""
        return pack(self.kind.encode()) + fields + application

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.blob)

    @property
    def line(self) -> str:
        """As in a .pub file, without a comment."""
        return str(self.public)

    def sign(
        self, message: bytes, *, namespace: str, flags: int = TOUCHED, hash_name: str = "sha512", rsa_kind: str = "rsa-sha2-512"
    ) -> str:  # fmt: skip
        """An armored signature. `flags` are what a security key says of touch (1) and verification (4)."""
        digest = hashlib.new(hash_name, message).digest()
        head = b"".join(map(pack, (namespace.encode(), b"", hash_name.encode())))
        signature = self.sign_raw(MAGIC + head + pack(digest), flags=flags, rsa_kind=rsa_kind)
        return armor(MAGIC + (1).to_bytes(4, "big") + pack(self.blob) + head + pack(signature))

    def sign_raw(self, data: bytes, *, flags: int = TOUCHED, rsa_kind: str = "rsa-sha2-512") -> bytes:
        """A signature blob (RFC 4253 section 6.6; PROTOCOL.u2f for security keys)."""
        tail = b""
        if self.is_security_key:
            tail = bytes([flags]) + (7).to_bytes(4, "big")
            data = hashlib.sha256(APPLICATION).digest() + tail + hashlib.sha256(data).digest()
        if "ed25519" in self.kind:
            return pack(self.kind.encode()) + pack(self.private.sign(data)) + tail
        if self.kind == "ssh-rsa":
            algorithm = {"rsa-sha2-512": hashes.SHA512(), "rsa-sha2-256": hashes.SHA256(), "ssh-rsa": hashes.SHA1()}[rsa_kind]  # fmt: skip
            return pack(rsa_kind.encode()) + pack(self.private.sign(data, padding.PKCS1v15(), algorithm))
        algorithm = hashes.SHA256() if self.is_security_key else HASHES[self.curve]
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(algorithm)))
        return pack(self.kind.encode()) + pack(mpint(r) + mpint(s)) + tail
