"""From a policy and a plaintext in locked memory to a compact JWE.

Rule 1: nothing is sealed to a key whose trust nobody established; how it was won goes into the header.
Rule 2: every JWE has a fresh ephemeral or a fresh content key.
Rule 3: nothing private of an advertisement reaches the header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from unlatch.bootstrap import jose
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.bootstrap.jose import Jwk
from unlatch.bootstrap.pins.hardware import NO_ADVICE, Hardware
from unlatch.bootstrap.pins.tree import RECOVERY_PIN
from unlatch.bootstrap.policy import Pkcs11Rule, PolicyError, Rule, SssRule, TangRule, Tpm2Rule
from unlatch.errors import ConfigError
from unlatch.memguard._native import Secret, jwe_seal, jwe_seal_to, sss_split

CONTENT_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class TangTarget:
    """A server whose keys are trusted."""

    url: str
    keys: tuple[Jwk, ...]
    """The advertised set: it goes into the header."""
    exchange_key: Jwk
    trust: str
    """How trust was won: "pinned", "file", "context", "first-use"."""


@dataclass(frozen=True, slots=True)
class SssTarget:
    """`threshold` of the children."""

    threshold: int
    children: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """The public half of an offline key."""

    key: Jwk


Target: TypeAlias = TangTarget | Tpm2Rule | Pkcs11Rule | SssTarget | RecoveryTarget
"""Hardware is its own target: nothing has to be fetched or trusted before it seals."""


class Advertiser(Protocol):
    """Fetches advertisements."""

    def advertisement(self, url: str, *, thumbprint: str = "") -> bytes:
        """Give the body of `URL/adv/THUMBPRINT`."""
        ...


def resolve(
    rule: Rule,
    *,
    advertiser: Advertiser,
    accept: Callable[[str, Advertisement], str],
    pin_matters: bool = True,
) -> Target:
    """Fetch and check every advertisement of a policy.

    Args:
        rule: the policy.
        advertiser: reaches the servers.
        accept: called with address and advertisement where the policy pins nothing; raises, or says how trust was
            won.
        pin_matters: False accepts an advertisement that a pinned key has not signed (clevis's `-y`).

    Raises:
        UntrustedGateError: an advertisement is not whole, or not signed by the pinned key.
        UnlatchError: no answer, or `accept` refused.
    """
    if isinstance(rule, SssRule):
        children = tuple(
            resolve(child, advertiser=advertiser, accept=accept, pin_matters=pin_matters)
            for child in rule.children
        )
        return SssTarget(rule.threshold, children)
    if isinstance(rule, Tpm2Rule | Pkcs11Rule):
        return rule
    advertisement = Advertisement.parse(_body(rule, advertiser))
    # clevis takes the literal "any" for "no check"; our own policies say so with a flag.
    if rule.thumbprint is not None and pin_matters:
        advertisement.expect(rule.thumbprint)
        trust = "pinned"
    elif rule.advertisement is not None:
        trust = "file"
    else:
        trust = accept(rule.url, advertisement)
    return TangTarget(rule.url, advertisement.keys, advertisement.exchange_key, trust)


def with_recovery(target: Target, key: Jwk) -> SssTarget:
    """Add an offline key as a second way in: sharing 1 of [the policy, the key]."""
    return SssTarget(1, (target, RecoveryTarget(key)))


def encrypt(
    plaintext: Secret,
    target: Target,
    *,
    extra: Mapping[str, object] | None = None,
    hardware: Hardware = NO_ADVICE,
) -> bytes:
    """Seal a plaintext.

    Args:
        plaintext: in locked memory.
        target: whom to seal to.
        extra: further members of the outermost header (`unlatch`, `cty`).
        hardware: how TPM and tokens are reached, and what they need.

    Raises:
        UnlatchError: TPM or token did not seal.
        ConfigError: the exchange key is on no known curve, or the file would be too large.
    """
    header = dict(extra or {})
    match target:
        case TangTarget():
            tang = {"adv": {"keys": [jose.public_part(key) for key in target.keys]}, "url": target.url}
            header |= {"clevis": {"pin": "tang", "tang": tang}, "kid": jose.thumbprint(target.exchange_key)}
            return jwe_seal_to(jose.write_json(header), plaintext, jose.write_json(target.exchange_key))
        case Tpm2Rule() | Pkcs11Rule():
            content_key = Secret.random(CONTENT_KEY_BYTES)
            header |= {"clevis": hardware.wrap(content_key, target)}
            return jwe_seal(jose.write_json(header), plaintext, content_key)
        case RecoveryTarget():
            header |= {"clevis": {"pin": RECOVERY_PIN, RECOVERY_PIN: {}}, "kid": jose.thumbprint(target.key)}
            return jwe_seal_to(jose.write_json(header), plaintext, jose.write_json(target.key))
        case SssTarget():
            prime, key, shares = sss_split(target.threshold, len(target.children))
            jwes = [
                encrypt(share, child, hardware=hardware).decode()
                for share, child in zip(shares, target.children, strict=True)
            ]
            sss = {"jwe": jwes, "p": jose.encode(prime), "t": target.threshold}
            header |= {"clevis": {"pin": "sss", "sss": sss}}
            return jwe_seal(jose.write_json(header), plaintext, key)


def trust_of(target: Target) -> dict[str, str]:
    """Give address → how trust was won, for every server of a policy."""
    match target:
        case TangTarget():
            return {target.url: target.trust}
        case SssTarget():
            return {url: trust for child in target.children for url, trust in trust_of(child).items()}
        case _:
            return {}


def read_recovery_key(data: bytes) -> Jwk:
    """Read the public half of an offline key.

    Raises:
        ConfigError: no ECMR key, or the private half.
    """
    try:
        key = jose.read_json(data)
    except ValueError:
        key = None
    if not isinstance(key, dict) or key.get("kty") != "EC":
        raise ConfigError(
            "recovery file is no EC key", hint="unlatch recovery init --out FILE makes FILE and FILE.pub"
        )
    if jose.is_private(key):
        raise ConfigError(
            "recovery file holds the private key",
            hint="seal with the public half, FILE.pub; keep FILE offline",
        )
    return key


def _body(rule: TangRule, advertiser: Advertiser) -> bytes:
    match rule.advertisement:
        case bytes():
            return rule.advertisement
        case str():
            try:
                return Path(rule.advertisement).read_bytes()
            except OSError as error:
                raise PolicyError(f"Advertisement file '{rule.advertisement}' not found!") from error
        case None:
            return advertiser.advertisement(rule.url, thumbprint=rule.thumbprint or "")
