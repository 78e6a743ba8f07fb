"""The life of a request, as one table.

Rule 1: every change of a request is a row here; what is no row does not happen.
Rule 2: deny wins: until the answer is out, an approved request can still be denied.
Rule 3: the ends are ends. One approval answers one point, once.

    received → pending → approved → delivered
                  │          └────→ denied, expired, cancelled
                  └→ denied, expired, cancelled, refused, superseded
"""

from __future__ import annotations

from enum import StrEnum

from unlatch.errors import RefusedError


class State(StrEnum):
    """Where a request stands."""

    RECEIVED = "received"
    PENDING = "pending"
    APPROVED = "approved"
    DELIVERED = "delivered"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    SUPERSEDED = "superseded"


CHANGES: dict[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.PENDING, State.REFUSED}),
    State.PENDING: frozenset(
        {State.APPROVED, State.DENIED, State.EXPIRED, State.CANCELLED, State.REFUSED, State.SUPERSEDED}
    ),
    State.APPROVED: frozenset({State.DELIVERED, State.DENIED, State.EXPIRED, State.CANCELLED}),
    State.DELIVERED: frozenset(),
    State.DENIED: frozenset(),
    State.EXPIRED: frozenset(),
    State.CANCELLED: frozenset(),
    State.REFUSED: frozenset(),
    State.SUPERSEDED: frozenset(),
}

OPEN = frozenset(state for state, following in CHANGES.items() if following)


class StateError(RefusedError):
    """A request does not stand where a change needs it."""

    def __init__(self, current: State, wanted: State) -> None:
        super().__init__(f"a request that is {current} cannot become {wanted}")
        self.current = current
        self.wanted = wanted


def check_change(current: State, wanted: State) -> None:
    """Refuse a change that is no row of the table.

    Raises:
        StateError: it is none.
    """
    if wanted not in CHANGES[current]:
        raise StateError(current, wanted)
