"""More signatures than connections can explain: a sign that edge's sockets to guard are used by somebody else. Pure.

Three counts come from three places: guard's signatures for server handshakes, which edge cannot lower; edge's finished
and failed handshakes, which a taken-over edge can make up; and the connections that the kernel took in for this network
namespace, which it can only raise by making some. Within a window

 1. signatures must not exceed the kernel's connections by more than `SLACK`;
 2. signatures must not exceed edge's handshakes, finished and failed, by more than `SLACK`;
 3. signatures for handshakes that never finished must be fewer than `SLACK` plus half of all signatures.

It is an anomaly, not a proof: a flood of clients that hang up looks like the third, and an edge that is careful
stays below all three.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

WINDOW_SECONDS = 60.0
SLACK = 100
"""Handshakes that are under way while the counts are taken, and a scan by somebody curious."""
FLAG_SECONDS = 24 * 3600.0
"""How long `status` says so after the last one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The counts at one moment; signatures are to be read first, connections last."""

    at: float
    edge: int
    """Which process edge is: another one counts from zero."""
    signatures: int
    finished: int
    """Handshakes that were not resumed."""
    failed: int
    connections: int | None
    """None where the kernel does not say."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What was seen within one window."""

    reason: str
    signatures: int
    finished: int
    failed: int
    connections: int | None


@dataclass(slots=True)
class Watch:
    """Compares the counts of a sliding window."""

    count: int = 0
    last: Anomaly | None = None
    last_at: float | None = None
    _samples: deque[Sample] = field(default_factory=deque)
    """Of one edge and one guard."""
    _kernel: deque[Sample] = field(default_factory=deque)
    """Of one guard: the kernel counts on while edge is started again."""

    def note(self, sample: Sample) -> Anomaly | None:
        """Take a sample; gives what is wrong. A window that was told begins anew."""
        if self._kernel and sample.signatures < self._kernel[-1].signatures:
            self._kernel.clear()
            self._samples.clear()
        if self._samples and self._samples[-1].edge != sample.edge:
            self._samples.clear()
        for window in (self._samples, self._kernel):
            window.append(sample)
            while sample.at - window[0].at > WINDOW_SECONDS:
                window.popleft()
        found = judge_connections(self._kernel[0], sample) or judge_handshakes(self._samples[0], sample)
        if found is not None:
            self.count += 1
            self.last, self.last_at = found, sample.at
            for window in (self._samples, self._kernel):
                window.clear()
                window.append(sample)
        return found

    def told(self, now: float) -> list[str]:
        """For `status`, in words, while the last one is not a day old."""
        if self.last is None or self.last_at is None or now - self.last_at > FLAG_SECONDS:
            return []
        return [f"anomaly: {self.last.reason} ({self.count} times since the start); see the log"]


def judge_connections(before: Sample, after: Sample) -> Anomaly | None:
    """Rule 1, between two samples of one guard."""
    spent = _spent(before, after, "more signatures than connections that the kernel took")
    is_wrong = spent.connections is not None and spent.signatures > spent.connections + SLACK
    return spent if is_wrong else None


def judge_handshakes(before: Sample, after: Sample) -> Anomaly | None:
    """Rules 2 and 3, between two samples of one edge."""
    spent = _spent(before, after, "more signatures than handshakes that edge knows of")
    if spent.signatures > spent.finished + spent.failed + SLACK:
        return spent
    if spent.signatures - spent.finished > SLACK + spent.signatures / 2:
        return replace(spent, reason="signatures for handshakes that never finished")
    return None


def _spent(before: Sample, after: Sample, reason: str) -> Anomaly:
    connections = None
    if before.connections is not None and after.connections is not None:
        connections = after.connections - before.connections
    return Anomaly(
        reason=reason,
        signatures=after.signatures - before.signatures,
        finished=after.finished - before.finished,
        failed=after.failed - before.failed,
        connections=connections,
    )


def sample(
    *, at: float, edge_pid: int, guard: dict[str, Any], edge: dict[str, Any], connections: int | None
) -> Sample:
    """From guard's status, edge's counters, and what the kernel counted."""
    hardware = [key["signatures"] for one in guard["custodians"] for key in one["keys"]]
    return Sample(
        at=at,
        edge=edge_pid,
        signatures=guard["handshake_signatures"] + sum(hardware),
        finished=edge["handshakes"] - edge["handshakes_resumed"],
        failed=edge["handshakes_failed"],
        connections=connections,
    )


def passive_opens(snmp: str) -> int:
    """Connections that were opened from outside, from the text of `/proc/net/snmp`.

    Raises:
        ValueError: the kernel does not say.
    """
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])
