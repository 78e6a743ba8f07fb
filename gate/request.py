"""A request as its asker makes it, and as its asker may know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlatch.bootstrap.identity.proof import Identity, is_enrolled
from unlatch.errors import BusyError
from unlatch.gate.protocol import Point
from unlatch.gate.roster import Workload
from unlatch.gate.state import State

MAX_PENDING = 32  # for one workload, by askers whom no enrolled key names
MAX_PENDING_OF_SOURCE = 8  # so that one address cannot take every place
MAX_PENDING_OF_HOSTS = 64  # for one workload, by enrolled hosts: strangers cannot take their places


@dataclass(frozen=True, slots=True)
class Asked:
    """A recovery request that passed every check without the database."""

    workload: Workload
    kid: str
    point: Point
    client: str
    claims: bytes | None
    source: str
    proof: str | None = None
    """A host's signature over all of that, as it was sent."""
    identity: Identity | None = None
    """What decider makes of the proof. Keyholder makes up its own mind."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands, as its asker may know it."""

    state: State
    version: int
    approvals: tuple[str, ...]
    needed: int
    expires: int
    closed_by: str | None


def check_room(asked: Asked, waiting: Sequence[tuple[str, str | None]]) -> None:
    """Refuse a request where too many wait.

    Args:
        asked: the new one.
        waiting: source and identity of each open request for the same workload.

    Raises:
        BusyError: too many wait for this workload, or from this source.
    """
    if asked.identity is not None and asked.identity.is_enrolled:
        # Its own older request makes room for it.
        others = [one for _, one in waiting if is_enrolled(one) and one != str(asked.identity)]
        if len(others) >= MAX_PENDING_OF_HOSTS:
            raise BusyError(f"{len(others)} hosts wait for this workload")
        return
    sources = [source for source, one in waiting if not is_enrolled(one)]
    if len(sources) >= MAX_PENDING or sources.count(asked.source) >= MAX_PENDING_OF_SOURCE:
        raise BusyError(f"{len(sources)} requests wait for this workload")
