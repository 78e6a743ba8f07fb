"""What `status` says of keys: which sign, how often, and how long that takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from unlatch.proxy.wiring import KeyInfo


def describe(
    keys: Iterable[KeyInfo],
    *,
    edge: Mapping[str, Any],
    guard: Mapping[str, Any],
    fallbacks: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """One entry for each key of the configuration.

    Args:
        keys: as guard named them.
        edge: its counters (docs/protocol.md 2); empty while it does not answer.
        guard: its status (docs/protocol.md 1.7).
        fallbacks: by name of a key in hardware, the sealed key that stands in for it.
    """
    measured = edge.get("keys", {})
    places = dict(_places(guard))
    for key in keys:
        seen = measured.get(str(key.id), {})
        entry = {
            "name": key.name,
            "algorithm": key.algorithm,
            "signatures": seen.get("signatures", 0),
            "failed": seen.get("failed", 0),
            "p50_ms": _milliseconds(seen.get("p50_us")),
            "p99_ms": _milliseconds(seen.get("p99_us")),
        }
        if key.name in places:
            entry["hardware"], entry["state"] = places[key.name]
        if (fallback := fallbacks.get(key.name)) is not None:
            told = seen.get("fallback", {})
            is_active = told.get("active", False) or entry.get("state") != "ready"
            signatures = told.get("signatures", 0)
            entry["fallback"] = {"key": fallback, "active": is_active, "signatures": signatures}
        yield entry


def _places(guard: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """By key: the hardware that holds it, and `ready` or what keeps it from signing."""
    for custodian in guard.get("custodians", []):
        state, reason = custodian["state"], custodian["reason"]
        for key in custodian["keys"]:
            trouble = key["missing"] if state == "ready" else reason
            words = "missing" if state == "ready" and key["missing"] else state
            yield (key["name"], (custodian["hardware"], f"{words}: {trouble}" if trouble else words))


def _milliseconds(micros: int | None) -> float | None:
    return None if micros is None else round(micros / 1000, 3)
