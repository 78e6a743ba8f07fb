"""Software keys that stand in for keys in hardware, where the configuration declares them.

Edge decides when one signs (docs/protocol.md 2); here it is checked before, and said while it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unlatch.errors import ConfigError


def check_names(*, hardware: Iterable[str], fallback: Iterable[str], where: str) -> None:
    """Refuse a fallback that would answer for names which it is not for.

    Args:
        hardware: names of the certificate whose key is in hardware.
        fallback: names of the other one.
        where: place in the configuration.

    Raises:
        ConfigError: a name is missing.
    """
    if missing := sorted(set(hardware) - set(fallback)):
        raise ConfigError(
            f"the fallback's certificate is not for {', '.join(missing)} ({where})",
            hint="it is presented in the place of the other one: have it made for all of its names",
        )


def weaker(keys: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What `status` warns of: a sentence for each key whose fallback signs now."""
    for key in keys:
        fallback = key.get("fallback")
        if fallback is not None and fallback["active"]:
            reason = "it refused, or did not answer" if key["state"] == "ready" else key["state"]
            yield f"key {key['name']} does not sign ({reason}): sealed:{fallback['key']} signs in its place"


@dataclass(slots=True)
class Watch:
    """Tells changes, each once; what came and went between two looks too."""

    _seen: dict[str, tuple[bool, int]] = field(default_factory=dict)

    def changes(self, keys: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events for the log and their facts."""
        for key in keys:
            fallback = key.get("fallback")
            if fallback is None:
                continue
            was_active, signed = self._seen.get(key["name"], (False, 0))
            self._seen[key["name"]] = (fallback["active"], fallback["signatures"])
            facts = {
                "key": key["name"],
                "fallback": f"sealed:{fallback['key']}",
                "state": key["state"],
                "signatures": fallback["signatures"],
            }
            # Edge counts from its own start.
            has_signed = fallback["signatures"] > signed
            if not was_active and (fallback["active"] or has_signed):
                yield "fallback in use", facts
            if not fallback["active"] and (was_active or has_signed):
                yield "fallback over", facts
