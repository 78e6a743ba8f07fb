"""Enrolments on decider's side: hands them to keyholder, then writes them to the audit log and the tables.

Keyholder is first: what it has taken is in force. What decider missed because it stopped in between is written at the
next start, from keyholder's chain.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from unlatch.bootstrap.approval import base64url
from unlatch.errors import RefusedError
from unlatch.gate.database import Book, Ledger
from unlatch.gate.docket import Docket
from unlatch.gate.entry import enrol_entry
from unlatch.gate.identity import IdentityError, check_in_force
from unlatch.gate.keyholder_client import KeyholderClient
from unlatch.gate.roster import Roster
from unlatch.gate.state import State
from unlatch.gate.tables import audit_entries, credentials, hosts, operators, workloads

Learn = Callable[[Roster], Awaitable[None]]


class Office:
    """Keeps roster, audit log and tables in step. `learn` is told of each new roster."""

    def __init__(self, ledger: Ledger, keyholder: KeyholderClient, docket: Docket, *, learn: Learn) -> None:
        self._ledger, self._keyholder, self._docket, self._learn = ledger, keyholder, docket, learn
        self._links: list[tuple[bytes, str | None]] = []
        self._advertisement = b""

    async def start(self) -> None:
        """Take over keyholder's chain, and write what the audit log misses of it."""
        self._advertisement = str((await self._keyholder.ask("advertise", workload=""))["body"]).encode()
        await self._take_over()

    async def advertisement(self) -> bytes:
        """The gate's own advertisement: its signing key, addresses and log keys, signed."""
        return self._advertisement

    def links(self) -> list[dict[str, Any]]:
        """The chain of enrolments from the genesis on."""
        return [
            {"enrolment": base64url.encode(data), "signature": signature} for data, signature in self._links
        ]

    async def new_key(self) -> dict[str, Any]:
        """A new exchange key, in keyholder's memory until an enrolment names it."""
        return await self._keyholder.ask("new-key")

    async def enrol(self, enrolment: bytes, signature: str) -> dict[str, Any]:
        """Hand over a signed enrolment.

        Raises:
            KeyholderRefusal: it does not hold.
        """
        async with self._docket.lock:
            answer = await self._keyholder.ask(
                "enrol", enrolment=base64url.encode(enrolment), signature=signature
            )
            await self._take_over()
        return answer

    async def _take_over(self) -> None:
        roster, links = await self._keyholder.roster()
        written = await self._written()
        if written > len(links):
            raise RefusedError("the audit log holds enrolments that keyholder does not know")
        async with self._ledger.change() as book:
            for data, signature in links[written:]:
                await book.record(enrol_entry(enrolment=data, signature=signature))
            await _mirror(book, roster)
            for row in await self._docket.list_open():
                try:
                    check_in_force(row.identity, roster=roster)
                except IdentityError as error:
                    state = State.REFUSED if row.state == State.PENDING else State.CANCELLED
                    await self._docket.end(book, row, state, why=str(error))
        self._links, self._docket.roster = links, roster
        await self._learn(roster)

    async def _written(self) -> int:
        query = sa.select(sa.func.count()).where(audit_entries.c.kind == "enrol")
        return int((await self._ledger.fetch(query))[0][0])


async def _mirror(book: Book, roster: Roster) -> None:
    """Copy the roster into the tables that pages and reports read."""
    for table in (credentials, operators, workloads, hosts):
        await book.execute(sa.delete(table))
    for operator in roster.operators.values():
        row = {"name": operator.name, "is_admin": operator.is_admin, "is_suspended": operator.is_suspended}
        await book.execute(sa.insert(operators).values(row))
        for key in operator.keys:
            one = {
                "operator": operator.name,
                "kind": "ssh",
                "fingerprint": key.fingerprint,
                "public": str(key),
            }
            await book.execute(sa.insert(credentials).values(one))
    for workload in roster.workloads.values():
        facts = {
            "name": workload.name, "kid": workload.kid, "revision": workload.revision,
            "policy": json.dumps(asdict(workload)),
        }  # fmt: skip
        await book.execute(sa.insert(workloads).values(facts))
    for host in roster.hosts.values():
        await book.execute(sa.insert(hosts).values(asdict(host)))
