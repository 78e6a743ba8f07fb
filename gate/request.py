"""A request as its asker makes it, and as its asker may know of it."""

from __future__ import annotations

from dataclasses import dataclass

from unlatch.gate.protocol import Point
from unlatch.gate.roster import Workload
from unlatch.gate.state import State


@dataclass(frozen=True, slots=True)
class Asked:
    """A recovery request that passed every check without the database."""

    workload: Workload
    kid: str
    point: Point
    client: str
    claims: bytes | None
    source: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands, as its asker may know it."""

    state: State
    version: int
    approvals: tuple[str, ...]
    needed: int
    expires: int
    closed_by: str | None
