"""A Tang server in memory, with the native crate's server side; checked against tangd by tests/interop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from unlatch.bootstrap import jose
from unlatch.errors import UnknownKeyError
from unlatch.memguard._native import (
    Secret,
    exchange_answer,
    exchange_key_generate,
    signing_key_generate,
    signing_key_sign,
)


class FakeTang:
    """Keys, advertisement and answers; a transport and an advertiser for code under test.

    `url` is only a name. `asked` lists the thumbprints of the posted points.
    """

    def __init__(self, *, url: str = "http://tang.test", curve: str = "P-521", signers: int = 1) -> None:
        self.url = url
        self.asked: list[str] = []
        self.exchange, public = exchange_key_generate(curve)
        self.exchange_public: dict[str, object] = json.loads(public)
        self.signing = [signing_key_generate("P-256") for _ in range(signers)]

    @property
    def keys(self) -> list[dict[str, object]]:
        """The advertised set."""
        return [*(json.loads(public) for _, public in self.signing), self.exchange_public]

    @property
    def thumbprint(self) -> str:
        """Of the first signing key."""
        return jose.thumbprint(self.keys[0])

    def sign(self, payload: bytes) -> bytes:
        """A JWS by every signing key."""
        encoded = jose.encode(payload)
        protected = jose.encode(b'{"alg":"ES256","cty":"jwk-set+json"}')
        signatures = [
            {
                "protected": protected,
                "signature": jose.encode(signing_key_sign(key, f"{protected}.{encoded}".encode())),
            }
            for key, _ in self.signing
        ]
        if len(signatures) == 1:
            return jose.write_json({"payload": encoded, **signatures[0]})
        return jose.write_json({"payload": encoded, "signatures": signatures})

    def advertisement(self, url: str = "", *, thumbprint: str = "") -> bytes:
        """As GET /adv/THUMBPRINT."""
        return self.sign(jose.write_json({"keys": self.keys}))

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        """As POST /rec/KID."""
        self.asked.append(thumbprint)
        if kid != jose.thumbprint(self.exchange_public):
            raise UnknownKeyError(f"{url} does not know the key")
        return exchange_answer(self.exchange, request)


class VectorTang:
    """Answers for every given private key, found by SHA-256 or SHA-1 thumbprint."""

    def __init__(self, jwks: Sequence[Mapping[str, object]]) -> None:
        self._jwks = jwks

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        """As POST /rec/KID."""
        key = jose.find_by_thumbprint(kid, self._jwks)
        if key is None:
            raise UnknownKeyError(f"{url} does not know the key")
        return exchange_answer(Secret.copy_from(jose.write_json(key)), request)
