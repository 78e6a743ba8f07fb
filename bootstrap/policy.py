"""Policies in clevis's configuration form, before any server was asked.

`{"url": …, "thp": …, "adv": …}` for tang, `{"hash": …, "key": …, "pcr_bank": …, "pcr_ids": …}` for tpm2, `{"uri": …}` for
pkcs11, `{"t": 1, "pins": {"tang": [{…}, {…}]}}` for sss. Unknown members are ignored, as clevis ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from unlatch.bootstrap import jose
from unlatch.bootstrap.pins.tpm2_header import parse_pcr_ids
from unlatch.errors import ConfigError
from unlatch.memguard.custodian.tpm_blobs import CURVES, HASHES, MODULI


class PolicyError(ConfigError):
    """A policy does not make sense. The message is clevis's where clevis has one."""


@dataclass(frozen=True, slots=True)
class TangRule:
    """Seal to a Tang server or a gate's workload."""

    url: str
    thumbprint: str | None = None
    """`thp`: the pinned signing key."""
    advertisement: bytes | str | None = None
    """`adv`: the JWS itself, or the name of its file."""


@dataclass(frozen=True, slots=True)
class Tpm2Rule:
    """Seal by this machine's TPM."""

    hash: str = "sha256"
    key: str = "ecc"
    bank: str | None = None
    pcrs: tuple[int, ...] = ()
    """In the order given."""
    pcr_values: bytes | None = None
    """`pcr_digest`: raw values to come, ascending; None: the present ones."""
    authority: bytes | None = None
    """SubjectPublicKeyInfo of the key whose signed values count, instead of those at sealing."""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Pkcs11Rule:
    """Seal to an RSA key in a token."""

    uri: str
    mechanism: str | None = None
    """None: "RSA-OAEP", which clevis does not read. "RSA-PKCS" is clevis's own: padding of PKCS#1 v1.5."""


@dataclass(frozen=True, slots=True)
class SssRule:
    """Seal to `threshold` of the children."""

    threshold: int
    children: tuple[Rule, ...]


Rule: TypeAlias = TangRule | Tpm2Rule | Pkcs11Rule | SssRule

MAX_DEPTH = 8
PKCS11_MECHANISMS = ("RSA-OAEP", "RSA-OAEP-256", "RSA-PKCS")
MAX_PCRS = 8
"""tpm2-tools 5.4: "Number of PCR is limited to 8"."""


def parse_policy(pin: str, config: str) -> Rule:
    """Read a pin's configuration.

    Args:
        pin: "tang", "tpm2", "pkcs11" or "sss".
        config: JSON.

    Raises:
        PolicyError: not JSON, a required member missing, or a pin that this version cannot seal to.
    """
    try:
        value = jose.read_json(config)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PolicyError("Error parsing config!" if pin == "sss" else "Configuration is malformed!")
    return _rule(pin, value, depth=0)


def parse_any_policy(config: str) -> Rule:
    """Read a configuration and tell the pin by its members: `pins` sss, `uri` pkcs11, `url` tang, else tpm2."""
    marks = {'"pins"': "sss", '"uri"': "pkcs11", '"url"': "tang"}
    return parse_policy(next((pin for mark, pin in marks.items() if mark in config), "tpm2"), config)


def all_of(rules: Sequence[Rule]) -> Rule:
    """Require every one of some rules; a lone one stays as it is."""
    return rules[0] if len(rules) == 1 else SssRule(len(rules), tuple(rules))


def parse_pcrs(text: str) -> tuple[str | None, tuple[int, ...]]:
    """Read PCRs as the command line takes them: `7,11` or `sha256:7,11`.

    Raises:
        PolicyError: something else.
    """
    bank, colon, indices = text.rpartition(":")
    if colon and bank not in HASHES:
        raise PolicyError(f"PCR bank is not one of {', '.join(HASHES)}")
    pcrs = _pcr_ids(indices)
    if not 1 <= len(set(pcrs)) <= MAX_PCRS:
        raise PolicyError(f"expected one to {MAX_PCRS} PCRs", hint="sha256:7,11")
    return bank or None, pcrs


def _rule(pin: str, config: Mapping[str, object], *, depth: int) -> Rule:
    if pin == "tang":
        return _tang(config)
    if pin == "sss":
        return _sss(config, depth=depth)
    if pin == "tpm2":
        return _tpm2(config)
    if pin == "pkcs11":
        return _pkcs11(config)
    raise PolicyError(
        f"this version cannot seal to pin {pin!r}",
        hint="tang, tpm2, pkcs11 and sss are built in; use the real clevis for others",
    )


def _tang(config: Mapping[str, object]) -> TangRule:
    url, thumbprint, adv = config.get("url"), config.get("thp"), config.get("adv")
    if not isinstance(url, str):
        raise PolicyError("Missing the required 'url' property!")
    if isinstance(adv, dict):
        adv = jose.write_json(adv)
    return TangRule(
        url,
        thumbprint if isinstance(thumbprint, str) and thumbprint else None,
        adv if isinstance(adv, bytes | str) else None,
    )


def _tpm2(config: Mapping[str, object]) -> Tpm2Rule:
    hash_name, key, bank = (
        config.get(name, default)
        for name, default in (("hash", "sha256"), ("key", "ecc"), ("pcr_bank", None))
    )
    if hash_name not in tuple(HASHES):  # a list has no hash, but is no member either
        raise PolicyError(f"hash is not one of {', '.join(HASHES)}")
    if key not in tuple(CURVES | MODULI):
        raise PolicyError(f"key is not one of {', '.join(CURVES | MODULI)}")
    if bank is not None and bank not in tuple(HASHES):
        raise PolicyError(f"pcr_bank is not one of {', '.join(HASHES)}")
    pcrs = _pcr_ids(config.get("pcr_ids"))
    if pcrs and hash_name != "sha256":
        raise PolicyError(
            f"hash {hash_name} together with pcr_ids",
            hint="clevis encrypts so but never decrypts it: leave hash out, pcr_bank alone chooses the PCRs' hash",
        )
    if len(set(pcrs)) > MAX_PCRS:
        raise PolicyError(
            f"more than {MAX_PCRS} PCRs",
            hint="tpm2-tools, and so clevis, cannot open such a file: choose fewer",
        )
    digest = config.get("pcr_digest")
    try:
        values = jose.decode(digest) if isinstance(digest, str) and digest else None
    except ValueError as error:
        raise PolicyError("pcr_digest is not base64url") from error
    return Tpm2Rule(str(hash_name), str(key), None if bank is None else str(bank), pcrs, values)


def _pcr_ids(given: object) -> tuple[int, ...]:
    """`"7,0"`, `["4", 16]` or `["4,16"]`; blanks are removed, nothing means no PCR."""
    parts = given if isinstance(given, list) else [given]
    if given is None or given in ("", []):
        return ()
    if not all(isinstance(part, str) or (type(part) is int and isinstance(given, list)) for part in parts):
        raise PolicyError("pcr_ids is no text and no list", hint='"pcr_ids": "7,11"')
    try:
        return parse_pcr_ids(",".join(str(part) for part in parts).replace(" ", ""))
    except ValueError as error:
        raise PolicyError(f"pcr_ids is {error}", hint='"pcr_ids": "7,11"') from error


def _pkcs11(config: Mapping[str, object]) -> Pkcs11Rule:
    uri, mechanism = config.get("uri"), config.get("mechanism")
    if not isinstance(uri, str) or not uri.startswith("pkcs11:"):
        raise PolicyError(
            "PKCS#11 URI with invalid format", hint='"uri": "pkcs11:module-path=/usr/lib/…;token=…;object=…"'
        )
    known = {"": None, "RSA-PKCS-OAEP": "RSA-OAEP"} | {name: name for name in PKCS11_MECHANISMS}
    if mechanism is not None and mechanism not in tuple(known):
        raise PolicyError(f"mechanism is not one of {', '.join(PKCS11_MECHANISMS)}")
    return Pkcs11Rule(uri, known[str(mechanism or "")])


def _sss(config: Mapping[str, object], *, depth: int) -> SssRule:
    threshold, pins = config.get("t", 1), config.get("pins")
    if depth == MAX_DEPTH:
        raise PolicyError(f"more than {MAX_DEPTH} sharings inside each other")
    if type(threshold) is not int or not isinstance(pins, dict):
        raise PolicyError("Error parsing config!", hint="t is a whole number, pins an object of pin names")
    children: list[Rule] = []
    for name, configs in pins.items():
        for one in configs if isinstance(configs, list) else [configs]:
            if not isinstance(one, dict):
                raise PolicyError(f"Error parsing config! pins.{name} is no object")
            children.append(_rule(name, one, depth=depth + 1))
    if not 1 <= threshold <= len(children) <= 255:
        raise PolicyError(f"Invalid threshold: {threshold} of {len(children)} pins")
    return SssRule(threshold, tuple(children))
