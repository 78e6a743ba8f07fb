"""Receipts signed by a key in memory. TEST ONLY."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.code import derive_code
from unlatch.bootstrap.approval.receipt import Receipt

KINDS = {"P-256": ("ES256", ec.SECP256R1(), hashes.SHA256(), 32), "P-521": ("ES512", ec.SECP521R1(), hashes.SHA512(), 66)}  # fmt: skip
NONCE = bytes(range(32))


class ReceiptKey:
    """A gate's signing key."""

    def __init__(self, curve: str = "P-521") -> None:
        self.algorithm, kind, self._hash, self._size = KINDS[curve]
        self._private = ec.generate_private_key(kind)
        numbers = self._private.public_key().public_numbers()
        x, y = (base64url.encode(number.to_bytes(self._size, "big")) for number in (numbers.x, numbers.y))
        self.public: dict[str, Any] = {
            "alg": self.algorithm, "crv": curve, "key_ops": ["verify"], "kty": "EC", "x": x, "y": y,
        }  # fmt: skip
        self.thumbprint = jose.thumbprint(self.public)

    def sign_bytes(self, data: bytes) -> bytes:
        """A signature as JWS writes it."""
        r, s = decode_dss_signature(self._private.sign(data, ec.ECDSA(self._hash)))
        return r.to_bytes(self._size, "big") + s.to_bytes(self._size, "big")

    def sign(self, receipt: Receipt, *, algorithm: str | None = None) -> bytes:
        """A receipt's token."""
        data = receipt.signing_input(algorithm=algorithm or self.algorithm)
        return data + b"." + base64url.encode(self.sign_bytes(data)).encode()

    def receipt(self, *, base: str, now: float, workload: str = "pay", **facts: Any) -> Receipt:
        """A receipt of a gate at `base`, right but for `facts`."""
        point = facts.get("point", base64url.digest(b"point"))
        members: dict[str, Any] = {
            "id": "7QK2ABCD", "workload": workload, "kid": base64url.digest(b"kid"), "point": point,
            "nonce": base64url.encode(NONCE), "policy_revision": base64url.digest(b"policy"),
            "poll": f"{base}/s/{workload}/wait/token", "card": f"{base}/r/7QK2ABCD", "client": "native", "origin": base,
            "gate": self.thumbprint, "issued": int(now), "expires": int(now) + 600, "claims": None,
            "code": derive_code(nonce=NONCE, point=point, workload=workload),
        }  # fmt: skip
        return Receipt(**members | facts)
