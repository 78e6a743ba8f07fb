"""What a sealed file's header says about how it opens: a tree of pins, read and never trusted.

Pure: no pin is asked here. A pin that this build cannot open still has its place, so that `inspect` can name it and
a sharing can go on without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from unlatch.bootstrap import jose
from unlatch.bootstrap.jose import Jwk
from unlatch.bootstrap.pins.members import ALTERED as ALTERED
from unlatch.bootstrap.pins.members import member as _member
from unlatch.bootstrap.pins.pkcs11_header import Pkcs11Pin as Pkcs11Pin
from unlatch.bootstrap.pins.tpm2_header import Tpm2Pin as Tpm2Pin
from unlatch.errors import ConfigError, DamagedFileError

PRIME_BYTES = 32
MAX_SHARES = 255
"""The native crate's bound on a sharing."""


@dataclass(frozen=True, slots=True)
class TangPin:
    """A Tang server, or a gate's workload, that multiplies a blinded point."""

    url: str
    kid: str
    exchange_key: Jwk
    """The advertised key that `kid` names, public members only."""
    signing_keys: tuple[Jwk, ...]
    """Keys that signed the advertisement; an approval receipt must be signed by one of them."""

    @property
    def workload(self) -> str | None:
        """The gate's workload name, when the address is `…/s/NAME`; a plain Tang server has none."""
        try:
            path = urlsplit(self.url).path.rstrip("/").split("/")
        except ValueError:  # brackets that are no IPv6 address
            return None
        return path[-1] if len(path) >= 3 and path[-2] == "s" and path[-1] else None

    @property
    def thumbprints(self) -> tuple[str, ...]:
        """SHA-256 thumbprints of the signing keys, as `--thp` takes them."""
        return tuple(jose.thumbprint(key) for key in self.signing_keys)


@dataclass(frozen=True, slots=True)
class SssPin:
    """Shamir's sharing: `threshold` of the children."""

    threshold: int
    prime: bytes
    children: tuple[Child, ...]


@dataclass(frozen=True, slots=True)
class RecoveryPin:
    """An offline key held by people, outside every gate."""

    kid: str


@dataclass(frozen=True, slots=True)
class NullPin:
    """The key lies in the header: no protection. A test pin, opened by `clevis decrypt` only."""

    key: str | None
    """`k` of the JWK; None where the test wants a failure."""


@dataclass(frozen=True, slots=True)
class UnknownPin:
    """A pin that this build does not open."""

    name: str


@dataclass(frozen=True, slots=True)
class BrokenPin:
    """A child that is no JWE, or whose header does not parse."""

    reason: str


Pin: TypeAlias = TangPin | Tpm2Pin | Pkcs11Pin | SssPin | RecoveryPin | NullPin | UnknownPin | BrokenPin


@dataclass(frozen=True, slots=True)
class Child:
    """One share: a compact JWE, its header's JSON, and its pin."""

    compact: bytes
    header: bytes
    pin: Pin


class UnknownPinError(DamagedFileError):
    """The header names a pin that this build cannot open."""


class NoRecoveryKeyError(ConfigError):
    """Only the offline key could go on, and it was not given."""


def is_silent(pin: Pin) -> bool:
    """Answer whether a pin can open without ringing a person."""
    match pin:
        case TangPin():
            return pin.workload is None
        case SssPin():
            return sum(is_silent(child.pin) for child in pin.children) >= pin.threshold
        case _:
            return True


def leaves(pin: Pin) -> Iterator[Pin]:
    """Every pin that is no sharing, from left to right."""
    if isinstance(pin, SssPin):
        for child in pin.children:
            yield from leaves(child.pin)
    else:
        yield pin


def pin_name(header: Mapping[str, object]) -> str:
    """Give `clevis.pin`.

    Raises:
        DamagedFileError: there is none, or it is no string.
    """
    name = _member(header, "clevis").get("pin")
    if not isinstance(name, str):
        raise DamagedFileError(
            "header has no clevis.pin", hint="this JWE was not made by unlatch seal or clevis encrypt"
        )
    return name


def parse_tang(header: Mapping[str, object]) -> TangPin:
    """Read a tang pin.

    Raises:
        DamagedFileError: a member is missing or wrong, or `kid` names no key of the advertisement.
    """
    if not isinstance(header.get("epk"), dict):
        raise DamagedFileError("tang: header has no epk", hint=ALTERED)
    tang = _member(_member(header, "clevis"), "tang")
    keys = _advertised(tang.get("adv"))
    kid, url = header.get("kid"), tang.get("url")
    if not isinstance(kid, str):
        raise DamagedFileError("tang: header has no kid", hint=ALTERED)
    if not isinstance(url, str):
        raise DamagedFileError("tang: header has no clevis.tang.url", hint=ALTERED)
    exchange_key = jose.find_by_thumbprint(kid, keys)
    if exchange_key is None:
        raise DamagedFileError("tang: kid is not the thumbprint of a key in clevis.tang.adv", hint=ALTERED)
    signing = tuple(jose.public_part(key) for key in keys if _can_verify(key))
    return TangPin(url, kid, jose.public_part(exchange_key), signing)


def parse_sss_frame(header: Mapping[str, object]) -> tuple[int, bytes, list[object]]:
    """Read threshold, prime and the unparsed children of a sharing.

    Raises:
        DamagedFileError: a member is missing or wrong, or the threshold cannot be met.
    """
    sss = _member(_member(header, "clevis"), "sss")
    threshold, prime, children = sss.get("t"), sss.get("p"), sss.get("jwe")
    if not isinstance(children, list) or not 1 <= len(children) <= MAX_SHARES:
        raise DamagedFileError(f"sss: jwe is not a list of 1 to {MAX_SHARES} shares", hint=ALTERED)
    if type(threshold) is not int or not 1 <= threshold <= len(children):
        raise DamagedFileError(f"sss: t is not a number between 1 and {len(children)}", hint=ALTERED)
    try:
        number = jose.decode(prime) if isinstance(prime, str) else b""
    except ValueError:
        number = b""
    if len(number) != PRIME_BYTES:
        raise DamagedFileError(f"sss: p is not a prime of {PRIME_BYTES} bytes in base64url", hint=ALTERED)
    return threshold, number, children


def parse_null(header: Mapping[str, object]) -> NullPin:
    """Read the test pin. `jwk` may be missing: then it never opens."""
    null = _member(_member(header, "clevis"), "null")
    jwk = null.get("jwk")
    if not isinstance(jwk, dict):
        return NullPin(None)
    key = jwk.get("k")
    usable = jwk.get("kty") == "oct" and isinstance(key, str) and jose.may(jwk, "decrypt")
    return NullPin(key if usable else None)


def parse_recovery(header: Mapping[str, object]) -> RecoveryPin:
    """Read the branch for the offline key."""
    kid = header.get("kid")
    if not isinstance(kid, str) or not isinstance(header.get("epk"), dict):
        raise DamagedFileError("recovery branch has no kid or epk", hint=ALTERED)
    return RecoveryPin(kid)


RECOVERY_PIN = "unlatch-recovery"
"""Real clevis has no program of this name, so it skips the branch and opens another."""


def _advertised(adv: object) -> list[Jwk]:
    """Give the keys of a JWK set, or of a bare JWK (clevis reads both)."""
    if not isinstance(adv, dict):
        raise DamagedFileError("tang: header has no clevis.tang.adv", hint=ALTERED)
    keys = adv.get("keys", [adv])
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise DamagedFileError("tang: clevis.tang.adv is no key set", hint=ALTERED)
    return keys


def _can_verify(key: Jwk) -> bool:
    """Answer whether a key is marked for signatures and can be named by a thumbprint."""
    try:
        jose.thumbprint(key)
    except ValueError:
        return False
    return jose.may(key, "verify", explicit=True)
