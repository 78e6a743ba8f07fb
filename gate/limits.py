"""Token buckets: how often one source, or one workload, may ask before it must wait. Pure; time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket holds `burst` tokens and gains `per_second` of them each second."""

    burst: float
    per_second: float


SOURCE_RATE = Rate(burst=120, per_second=2)
POLL_RATE = Rate(burst=400, per_second=20)
WORKLOAD_RATE = Rate(burst=40, per_second=0.5)
HOST_RATE = Rate(
    burst=10, per_second=0.2
)  # for one enrolled host, instead of its workload's and its source's
PROOF_RATE = Rate(burst=20, per_second=2)  # proofs by one enrolled key from a source that has spent all else


@dataclass(slots=True)
class Buckets:
    """One bucket for each name, at most 10 000; full ones are forgotten first."""

    rate: Rate
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, name: str, *, now: float) -> int:
        """Take one token.

        Args:
            now: seconds of a clock that never goes back.

        Returns:
            0, or the whole seconds to wait where no token is left.
        """
        left, since = self._left.pop(name, (self.rate.burst, now))
        left = min(self.rate.burst, left + (now - since) * self.rate.per_second)
        if len(self._left) >= MAX_BUCKETS:
            self._forget(now)
        taken = left >= 1
        self._left[name] = (left - 1 if taken else left, now)
        return 0 if taken else math.ceil((1 - left) / self.rate.per_second)

    def _forget(self, now: float) -> None:
        full = [
            name
            for name, (left, since) in self._left.items()
            if left + (now - since) * self.rate.per_second >= self.rate.burst
        ]
        for name in full or [next(iter(self._left))]:
            del self._left[name]
