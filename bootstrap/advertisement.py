"""A Tang advertisement: a JWS over a key set, signed by every signing key in it.

Rule 1: every key that may verify must have signed; one valid signature of several is not enough (jwcrypto's verify
alone would be content with one).
Rule 2: trust comes from outside: a pinned thumbprint, a file, or a person. What is signed by itself proves only that
it is whole.
Rule 3: nothing private passes: a key with `d` in an advertisement is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from unlatch.bootstrap import jose
from unlatch.bootstrap.jose import Jwk
from unlatch.errors import UntrustedGateError

ALGORITHMS = frozenset({"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
"""What Tang servers sign with. "none" and HMAC (whose key would be secret) are not among them."""
MAX_BYTES = 64 * 1024
MAX_SIGNATURES = 64
ASK_AGAIN = "fetch it again with curl URL/adv; if it stays so, do not seal to this server"


class MalformedAdvertisementError(UntrustedGateError):
    """No JWS over a key set, or a key set that nobody should seal to."""


class UnsignedAdvertisementError(UntrustedGateError):
    """A signature is missing or wrong."""


class NoExchangeKeyError(UntrustedGateError):
    """There is no key to seal to."""


class UnpinnedAdvertisementError(UntrustedGateError):
    """The pinned key has not signed."""

    def __init__(self, message: str, *, thumbprint: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.thumbprint = thumbprint


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A verified advertisement."""

    keys: tuple[Jwk, ...]
    """Every advertised key, in the server's order."""
    signing_keys: tuple[Jwk, ...]
    """Those that may verify; all of them have signed."""
    exchange_key: Jwk
    """The first key that says "deriveKey"."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and verify a JWS in flattened or general JSON.

        Raises:
            UntrustedGateError: not a JWS, a missing or wrong signature, or no key to use.
        """
        signatures, payload = _jws(body)
        keys = _keys(payload)
        signing = tuple(key for key in keys if jose.may(key, "verify"))
        if not signing:
            raise UnsignedAdvertisementError("advertisement holds no signing key", hint=ASK_AGAIN)
        for key in signing:
            _verify(key, payload, signatures)
        exchange = next((key for key in keys if jose.may(key, "deriveKey", explicit=True)), None)
        if exchange is None:
            raise NoExchangeKeyError(
                "advertisement holds no exchange key (key_ops deriveKey)", hint=ASK_AGAIN
            )
        if exchange.get("alg") not in (None, "ECMR"):
            # clevis would seal to it, and no server could ever answer.
            raise NoExchangeKeyError(f"exchange key is for {exchange.get('alg')!r}, not ECMR", hint=ASK_AGAIN)
        return cls(keys, signing, exchange)

    @property
    def thumbprints(self) -> tuple[str, ...]:
        """SHA-256 thumbprints of the signing keys."""
        return tuple(jose.thumbprint(key) for key in self.signing_keys)

    def expect(self, thumbprint: str) -> None:
        """Refuse an advertisement that the pinned key has not signed.

        Args:
            thumbprint: SHA-256 or SHA-1 thumbprint of a signing key, as clevis's `thp`.

        Raises:
            UntrustedGateError: no signing key has this thumbprint.
        """
        if jose.find_by_thumbprint(thumbprint, self.signing_keys) is None:
            raise UnpinnedAdvertisementError(
                f"advertisement is not signed by the pinned key {thumbprint}, but by {', '.join(self.thumbprints)}",
                thumbprint=thumbprint,
                hint="ask the people who run this server which key is theirs; do not seal until you know",
            )


def _jws(body: bytes) -> tuple[list[dict[str, str]], str]:
    """Give the signatures (protected, signature) and the payload, both still encoded."""
    if body.lstrip()[:1] == b"<":
        raise MalformedAdvertisementError(
            "advertisement is a web page, not a JWS",
            hint="a captive portal, login page or wrong address answers: check the URL",
        )
    try:
        value = jose.read_json(body) if len(body) <= MAX_BYTES else None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("payload"), str):
        raise MalformedAdvertisementError("advertisement is not a JWS in JSON", hint=ASK_AGAIN)
    entries = value.get("signatures", [value])
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_SIGNATURES:
        raise MalformedAdvertisementError("advertisement has no signatures, or too many", hint=ASK_AGAIN)
    signatures = []
    for entry in entries:
        fields = (
            {name: entry.get(name) for name in ("protected", "signature")} if isinstance(entry, dict) else {}
        )
        if not fields or not all(isinstance(text, str) for text in fields.values()):
            raise MalformedAdvertisementError(
                "advertisement has a signature without its fields", hint=ASK_AGAIN
            )
        signatures.append({name: str(text) for name, text in fields.items()})
    return signatures, value["payload"]


def _keys(payload: str) -> tuple[Jwk, ...]:
    try:
        value = jose.read_json(jose.decode(payload))
        keys = value.get("keys") if isinstance(value, dict) else None
    except ValueError:
        keys = None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise MalformedAdvertisementError("advertisement's payload is no key set", hint=ASK_AGAIN)
    for key in keys:
        if jose.is_private(key):
            raise MalformedAdvertisementError(
                "advertisement publishes a private key",
                hint="tell the people who run this server: that key is burnt, whatever was sealed to it is open",
            )
    return tuple(keys)


def _verify(key: Jwk, payload: str, signatures: list[dict[str, str]]) -> None:
    """Refuse unless one of the signatures is by this key."""
    from jwcrypto.common import JWException
    from jwcrypto.jwk import JWK
    from jwcrypto.jws import JWS

    # jwcrypto refuses a key whose key_ops do not hold "verify"; jose's rule (no key_ops: any use) was applied before.
    plain = {name: value for name, value in key.items() if name not in ("key_ops", "use")}
    for signature in signatures:
        try:
            jws = JWS()
            jws.allowed_algs = sorted(ALGORITHMS)
            jws.deserialize(jose.write_json({"payload": payload, **signature}).decode())
            jws.verify(JWK(**plain))
        except (JWException, ValueError, TypeError, KeyError):
            continue
        return
    raise UnsignedAdvertisementError("advertisement is not signed by every signing key in it", hint=ASK_AGAIN)
