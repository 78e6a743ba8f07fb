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
from dataclasses import dataclass, field
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

    def note(self, sample: Sample) -> Anomaly | None:
        """Take a sample; gives what is wrong. A window that was told begins anew."""
        first = self._samples[0] if self._samples else sample
        if first.edge != sample.edge or sample.signatures < first.signatures:
            self._samples.clear()
        self._samples.append(sample)
        while sample.at - self._samples[0].at > WINDOW_SECONDS:
            self._samples.popleft()
        found = judge(self._samples[0], sample)
        if found is not None:
            self.count += 1
            self.last, self.last_at = found, sample.at
            self._samples.clear()
            self._samples.append(sample)
        return found

    def told(self, now: float) -> list[str]:
        """For `status`, in words, while the last one is not a day old."""
        if self.last is None or self.last_at is None or now - self.last_at > FLAG_SECONDS:
            return []
        return [f"anomaly: {self.last.reason} ({self.count} times since the start); see the log"]


def judge(before: Sample, after: Sample) -> Anomaly | None:
    """What is wrong between two samples of one edge."""
    signatures = after.signatures - before.signatures
    finished = after.finished - before.finished
    failed = after.failed - before.failed
    connections = None
    if before.connections is not None and after.connections is not None:
        connections = after.connections - before.connections
    if connections is not None and signatures > connections + SLACK:
        reason = "more signatures than connections that the kernel took"
    elif signatures > finished + failed + SLACK:
        reason = "more signatures than handshakes that edge knows of"
    elif signatures - finished > SLACK + signatures / 2:
        reason = "signatures for handshakes that never finished"
    else:
        return None
    return Anomaly(reason, signatures, finished, failed, connections)


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
