"""Policies in clevis's configuration form, before any server was asked.

`{"url": …, "thp": …, "adv": …}` for tang, `{"t": 1, "pins": {"tang": [{…}, {…}]}}` for sss. Unknown members are
ignored, as clevis ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from unlatch.bootstrap import jose
from unlatch.errors import ConfigError


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
class SssRule:
    """Seal to `threshold` of the children."""

    threshold: int
    children: tuple[Rule, ...]


Rule: TypeAlias = TangRule | SssRule

MAX_DEPTH = 8


def parse_policy(pin: str, config: str) -> Rule:
    """Read a pin's configuration.

    Args:
        pin: "tang" or "sss".
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
    """Read a configuration that is an sss one (with `pins`) or a tang one (with `url`)."""
    return parse_policy("sss" if '"pins"' in config else "tang", config)


def _rule(pin: str, config: Mapping[str, object], *, depth: int) -> Rule:
    if pin == "tang":
        return _tang(config)
    if pin == "sss":
        return _sss(config, depth=depth)
    raise PolicyError(
        f"this version cannot seal to pin {pin!r}",
        hint="tang and sss are built in; use the real clevis for others",
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
