"""What a header says about a token: clevis 22's pkcs11 pin, and ours with RSA-OAEP.

Pure. clevis wraps by PKCS#1 v1.5 with the token's first key, whatever mechanism and object its header names; ours says
what it did and which key it took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from unlatch.bootstrap.pins.members import ALTERED, blob, member, text
from unlatch.errors import ConfigError, DamagedFileError
from unlatch.memguard.custodian.uri import TokenUri

OAEP_PIN = "unlatch-pkcs11"
"""Real clevis has no program of this name: its own reader knows PKCS#1 v1.5 only."""
Padding = Literal["pkcs1", "oaep-sha1", "oaep"]
MECHANISMS: Mapping[str, Padding] = {"RSA-OAEP": "oaep-sha1", "RSA-OAEP-256": "oaep"}
"""As JOSE names them (RFC 7518 section 4.3)."""
MAX_KEY_BYTES = 1024
"""RSA with 8192 bits."""


@dataclass(frozen=True, slots=True)
class Pkcs11Pin:
    """A key encrypted to an RSA key in a token."""

    uri: TokenUri
    key: bytes
    """The wrapped JWK."""
    padding: Padding
    key_digest: bytes | None = None
    """SHA-256 of the public key's SubjectPublicKeyInfo; clevis does not say."""

    @property
    def needs(self) -> str:
        """What must hold for it to open, in words."""
        token = self.uri.token or self.uri.serial
        return f"token {token} is there" if token else "a token with its key is there"


def parse_clevis(header: Mapping[str, object]) -> Pkcs11Pin:
    """Read clevis 22's pkcs11 pin.

    Raises:
        DamagedFileError: a member is missing or wrong.
    """
    holder = member(member(header, "clevis"), "pkcs11")
    uri, key = _uri_and_key(holder, "pkcs11")
    return Pkcs11Pin(uri, key, "pkcs1")


def parse_oaep(header: Mapping[str, object]) -> Pkcs11Pin:
    """Read our pin.

    Raises:
        DamagedFileError: a member is missing or wrong.
    """
    holder = member(member(header, "clevis"), OAEP_PIN)
    uri, key = _uri_and_key(holder, OAEP_PIN)
    padding = MECHANISMS.get(text(holder, "mechanism", pin=OAEP_PIN))
    if padding is None:
        raise DamagedFileError(f"{OAEP_PIN}: mechanism is not one of {', '.join(MECHANISMS)}", hint=ALTERED)
    digest = blob(holder, "key_digest", pin=OAEP_PIN)
    if len(digest) != 32:
        raise DamagedFileError(f"{OAEP_PIN}: key_digest has {len(digest)} bytes, expected 32", hint=ALTERED)
    return Pkcs11Pin(uri, key, padding, digest)


def _uri_and_key(holder: Mapping[str, object], pin: str) -> tuple[TokenUri, bytes]:
    try:
        uri = TokenUri.parse(text(holder, "uri", pin=pin))
    except ConfigError as error:
        raise DamagedFileError(f"{pin}: {error}", hint=ALTERED) from error
    key = blob(holder, "key", pin=pin)
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise DamagedFileError(f"{pin}: key is empty or too long", hint=ALTERED)
    return uri, key
