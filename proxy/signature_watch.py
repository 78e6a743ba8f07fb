"""Takes the counts that `anomaly` compares, from guard, edge and the kernel."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from unlatch.errors import UnlatchError
from unlatch.proxy import anomaly
from unlatch.proxy.guard_process import Guard
from unlatch.proxy.log import log
from unlatch.proxy.workers import Workers

LOOK_SECONDS = 2.0
_SNMP = Path("/proc/net/snmp")


async def look(watch: anomaly.Watch, workers: Workers, guard: Guard | None) -> None:
    """Look once; an anomaly goes to the log. Who does not answer is noticed elsewhere."""
    child = workers.describe().get("edge")
    if guard is None or child is None:
        return
    try:
        guards = await guard.control.status()
    except UnlatchError:
        return
    edge = await workers.edge_status()
    if not edge:
        return
    try:
        connections = anomaly.passive_opens(_SNMP.read_text())
    except (OSError, ValueError):
        # A kernel that does not count them leaves the two comparisons with edge's handshakes.
        connections = None
    sample = anomaly.sample(
        at=time.monotonic(), edge_pid=child["pid"], guard=guards, edge=edge, connections=connections
    )
    found = watch.note(sample)
    if found is not None:
        log("anomaly", count=watch.count, **asdict(found))


def told(watch: anomaly.Watch) -> list[str]:
    """What `status` says of it, now."""
    return watch.told(time.monotonic())
