"""The life of a request: what is no row of the table does not happen."""

from __future__ import annotations

import itertools

import pytest

from unlatch.gate.state import CHANGES, OPEN, State, StateError, check_change

ENDS = {State.DELIVERED, State.DENIED, State.EXPIRED, State.CANCELLED, State.REFUSED, State.SUPERSEDED}


def test_every_state_has_its_row() -> None:
    assert set(CHANGES) == set(State)


def test_ends_are_ends() -> None:
    assert {state for state in State if state not in OPEN} == ENDS
    assert all(not CHANGES[state] for state in ENDS)


def test_only_approved_requests_are_delivered() -> None:
    assert [state for state in State if State.DELIVERED in CHANGES[state]] == [State.APPROVED]


def test_approved_requests_can_still_be_denied() -> None:
    check_change(State.APPROVED, State.DENIED)


def test_what_is_no_row_is_refused() -> None:
    for before, after in itertools.product(State, State):
        if after not in CHANGES[before]:
            with pytest.raises(StateError):
                check_change(before, after)
