"""What a custodian counts: signatures, refusals and latencies per key. Time is an argument."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping

WINDOW = 1024
"""Latencies kept per key, for the percentiles."""


class Ledger:
    """Counters that several threads write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._signed: Counter[int] = Counter()
        self._latencies: dict[int, deque[float]] = {}

    def count(self, what: str) -> None:
        """Add one."""
        with self._lock:
            self._counts[what] += 1

    def signed(self, key: int, seconds: float) -> None:
        """Note a signature and how long it took, from the queue to the answer."""
        with self._lock:
            self._signed[key] += 1
            self._latencies.setdefault(key, deque(maxlen=WINDOW)).append(seconds)

    def facts(self) -> Mapping[str, object]:
        """Everything, for `status`."""
        with self._lock:
            keys = {
                str(key): {"signed": self._signed[key]} | _percentiles(sorted(latencies))
                for key, latencies in self._latencies.items()
            }
            return {"counts": dict(self._counts), "keys": keys}


def _percentiles(ordered: list[float]) -> dict[str, float]:
    if not ordered:
        return {}
    pick = {"p50_ms": 0.5, "p99_ms": 0.99}
    return {
        name: round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 3)
        for name, share in pick.items()
    }
