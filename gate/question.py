"""A request and its statements as keyholder wants to see them: with the audit entry and the proofs they stand on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from unlatch.bootstrap.approval import base64url
from unlatch.errors import RefusedError
from unlatch.gate.checkpoint import MAX_AGE_SECONDS
from unlatch.gate.database import Ledger
from unlatch.gate.keyholder_client import KeyholderClient, case_fields
from unlatch.gate.roster import Roster
from unlatch.gate.state import OPEN, State
from unlatch.gate.tables import statements

# An approval is left out a little before keyholder would refuse its checkpoint.
LAPSE_SECONDS = MAX_AGE_SECONDS - 10

Row = sa.Row[Any]
Values = Mapping[str, Any]


class Questions:
    """Puts requests to keyholder.

    Args:
        now: Unix seconds.
    """

    def __init__(self, ledger: Ledger, keyholder: KeyholderClient, *, now: Callable[[], float]) -> None:
        self._ledger, self._keyholder, self._now = ledger, keyholder, now

    async def statements(self, row: Row, roster: Roster) -> list[Values]:
        """The statements on a request that still count.

        Approvals lapse when their checkpoint becomes too old, and with the suspension of who signed them: keyholder
        refuses a question with one statement that does not hold, so these must not spoil the others.
        """
        column = statements.c
        query = sa.select(statements).where(column.request == row.id)
        if State(row.state) in OPEN:
            query = query.where(column.checkpoint_time > int(self._now()) - LAPSE_SECONDS)
        found: list[Values] = [one._asdict() for one in await self._ledger.fetch(query.order_by(column.id))]
        if State(row.state) in OPEN:
            in_force = {one.name for one in roster.operators.values() if not one.is_suspended}
            found = [one for one in found if one["operator"] in in_force]
        return found

    async def ask(self, question: str, row: Row, signed: Sequence[Values], **fields: Any) -> dict[str, Any]:
        """Ask keyholder about a request and these statements.

        Raises:
            KeyholderRefusal: it said no.
            RefusedError: a statement's checkpoint does not contain the request.
        """
        record = (await self._ledger.entries(row.entry_index, row.entry_index + 1))[0]
        return await self._keyholder.ask(
            question,
            **case_fields(receipt=row.receipt, claims=row.claims, entry=record, index=row.entry_index),
            statements=[
                {
                    "statement": base64url.encode(one["statement"]),
                    "signature": one["signature"],
                    "proof": self._inclusion(row.entry_index, one["checkpoint_size"]),
                }
                for one in signed
            ],
            **fields,
        )

    def _inclusion(self, index: int, size: int) -> list[str]:
        if not index < size <= len(self._ledger.tree):
            raise RefusedError("the statement's checkpoint does not contain this request")
        return [base64url.encode(step) for step in self._ledger.tree.inclusion(index, size)]
