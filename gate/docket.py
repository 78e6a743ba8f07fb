"""The requests: received, decided, answered. Decider collects; what opens is keyholder's to say.

Rule 1: every change is a compare-and-set in the same transaction as its audit entry (`state` holds the table).
Rule 2: an answer leaves only after its change to `delivered` is on disk. It is kept in memory, never in the database, for
one minute, so that an asker whose link broke finds it at its poll address.
Rule 3: keyholder is asked last and believed first: what it has spent is spent, whatever the database says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import sqlalchemy as sa

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.bootstrap.identity.proof import in_words, is_enrolled
from unlatch.errors import RefusedError
from unlatch.gate import entry as entries
from unlatch.gate.checkpoint import read_checkpoint
from unlatch.gate.database import Book, Ledger
from unlatch.gate.keyholder_client import KeyholderClient
from unlatch.gate.question import Questions, Row
from unlatch.gate.request import Asked, Progress, check_room
from unlatch.gate.roster import Roster
from unlatch.gate.sshsig import verify_sshsig
from unlatch.gate.state import OPEN, State, StateError, check_change
from unlatch.gate.statement import NAMESPACE, Statement
from unlatch.gate.tables import audit_checkpoints, requests, statements
from unlatch.gate.wire import KeyholderRefusal

MAX_WRONG_CODES = 5
REDELIVERY_SECONDS = 60.0


class UnknownRequestError(RefusedError):
    """The gate has no request of this id."""


class Docket:
    """Every request of a gate.

    Args:
        now: Unix seconds.
        monotonic: seconds of a clock that never goes back.
        tell: writes a log line, ``tell(event, **facts)``; never given a code, point or answer.

    `lock` is held for every change of a request; enrolments take it too, so that the audit log has each request and
    decision under the policy that it was made under.
    """

    def __init__(
        self, ledger: Ledger, keyholder: KeyholderClient,
        *, now: Callable[[], float], monotonic: Callable[[], float], tell: Callable[..., None],
    ) -> None:  # fmt: skip
        self._ledger, self._keyholder = ledger, keyholder
        self._questions = Questions(ledger, keyholder, now=now)
        self._now, self._monotonic, self._tell = now, monotonic, tell
        self.lock = asyncio.Lock()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._answers: dict[str, tuple[float, bytes]] = {}
        self.roster: Roster | None = None

    async def receive(self, asked: Asked) -> Row:
        """The request for a point: the one that is there, or a new one with its receipt.

        Raises:
            BusyError: too many requests wait for this workload.
            RefusedError: keyholder does not take it, or the point was asked for in another way before.
        """
        async with self.lock:
            known = await self._find(requests.c.point == asked.point.thumbprint)
            if known is not None:
                if (known.workload, known.kid, known.client) != (
                    asked.workload.name,
                    asked.kid,
                    asked.client,
                ):
                    raise RefusedError("this point was asked for in another way")
                return known
            await self._check_room(asked)
            answer = await self._keyholder.ask(
                "receive",
                workload=asked.workload.name,
                kid=asked.kid,
                client=asked.client,
                point=base64url.encode(asked.point.jwk),
                claims=base64url.encode(asked.claims) if asked.claims is not None else None,
                proof=asked.proof,
            )
            token = str(answer["receipt"]).encode()
            receipt = Receipt.parse(base64url.decode(token.split(b".")[1].decode()))
            async with self._ledger.change() as book:
                await self._supersede(book, asked, receipt)
                await self._insert(book, asked, receipt, token)
            self._tell(
                "request", id=receipt.id, workload=receipt.workload, client=asked.client, source=asked.source,
                identity=in_words(receipt.identity),
            )  # fmt: skip
        return await self.get(receipt.id)

    async def get(self, name: str) -> Row:
        """A request by its id.

        Raises:
            UnknownRequestError: there is none.
        """
        row = await self._find(requests.c.id == name)
        if row is None:
            raise UnknownRequestError("no such request")
        return row

    async def find_token(self, workload: str, token: str) -> Row | None:
        """A request by the last segment of its poll address."""
        return await self._find(sa.and_(requests.c.token == token, requests.c.workload == workload))

    async def list_open(self) -> list[Row]:
        """The requests that wait, the next to expire first."""
        query = (
            sa.select(requests).where(requests.c.state.in_(OPEN)).order_by(requests.c.expires, requests.c.id)
        )
        return await self._ledger.fetch(query)

    async def progress(self, row: Row) -> Progress:
        """Where a request stands."""
        signed = await self._questions.statements(row, self._rostered())
        return Progress(
            state=State(row.state),
            version=row.version,
            approvals=tuple(one["operator"] for one in signed if one["decision"] == "approve"),
            needed=row.needed,
            expires=row.expires,
            closed_by=row.closed_by,
        )

    async def wait(self, row: Row, *, seconds: float) -> Row:
        """The request after its next change, or as it is after some seconds."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(row.id, set())
        waiting.add(event)
        try:
            current = await self.get(row.id)
            if current.version == row.version and State(current.state) in OPEN:
                async with asyncio.timeout(min(seconds, max(0.0, row.expires - self._now()))):
                    await event.wait()
        except TimeoutError:
            await asyncio.shield(self.expire())  # whoever waits may leave; a change is never left half done
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(row.id, None)
        return await self.get(row.id)

    def wake_all(self) -> None:
        """Let everybody who waits look again: the gate ends."""
        for name in list(self._waiting):
            self._wake(name)

    async def decide(self, name: str, *, statement: bytes, signature: str) -> Row:
        """Take an operator's signed statement.

        Raises:
            KeyholderRefusal: it does not hold; kind ``code`` where only the typed code is wrong.
            RefusedError: malformed, or the request is closed.
        """
        async with self.lock:
            row = await self.get(name)
            if State(row.state) not in OPEN:
                raise StateError(State(row.state), State.APPROVED)
            said = Statement.parse(statement)
            roster = self._rostered()
            operator = roster.operator_of(verify_sshsig(signature, statement, namespace=NAMESPACE))
            checkpoint = read_checkpoint(said.checkpoint, keys=roster.log_keys)
            values = {
                "request": row.id, "operator": operator.name, "decision": said.decision, "kind": "ssh",
                "statement": statement, "signature": signature, "checkpoint_size": checkpoint.size,
                "checkpoint_time": checkpoint.time, "time": int(self._now()),
            }  # fmt: skip
            before = await self._questions.statements(row, roster)
            signed = [*(one for one in before if one["operator"] != operator.name), values]
            try:
                verdict = await self._questions.ask("judge", row, signed)
            except KeyholderRefusal as error:
                await self._take_refusal(row, error, values)
                raise
            await self._record_decision(row, values, verdict)
            self._tell(
                "decision", id=row.id, workload=row.workload, operator=operator.name, decision=said.decision
            )
        return await self.get(name)

    async def collect(self, row: Row) -> bytes | None:
        """The answer for an asker who is there to take it; None where it was given to somebody before.

        Raises:
            RefusedError: keyholder does not give it (any more).
        """
        async with self.lock:
            row = await self.get(row.id)
            if row.state == State.APPROVED:
                await self._deliver(row)
            kept = self._answers.get(row.id)
        if kept is None or kept[0] < self._monotonic():
            return None
        return kept[1]

    async def close(self, row: Row, state: State, *, why: str) -> None:
        """End a request that nobody decided (cancelled, expired)."""
        async with self.lock:
            current = await self.get(row.id)
            if State(current.state) in OPEN:
                async with self._ledger.change() as book:
                    await self._change(book, current, state, why=why)
                self._wake(row.id)

    async def end(self, book: Book, row: Row, state: State, *, why: str) -> None:
        """End an open request inside a change that is under way, with `lock` held."""
        await self._change(book, row, state, why=why)
        book.after_commit(partial(self._wake, row.id))

    async def expire(self) -> None:
        """End every request whose time is over, and forget answers that were kept long enough."""
        now = self._now()
        column = requests.c
        query = sa.select(requests).where(column.state.in_(OPEN), column.expires <= now)
        for row in await self._ledger.fetch(query):
            await self.close(row, State.EXPIRED, why="nobody decided in time")
        for name, (until, _) in list(self._answers.items()):
            if until < self._monotonic():
                del self._answers[name]

    async def resume(self) -> None:
        """After a start: a stock client's connection ended with the last process, and it comes back with another point."""
        query = sa.select(requests).where(requests.c.state.in_(OPEN), requests.c.client == "stock")
        for row in await self._ledger.fetch(query):
            await self.close(row, State.CANCELLED, why="the gate was started again")

    async def checkpoint(self) -> str:
        """A fresh checkpoint over everything that is on disk, signed by keyholder."""
        async with self.lock:
            return await self._sign_checkpoint()

    async def _sign_checkpoint(self) -> str:
        tree = self._ledger.tree
        head = (await self._keyholder.ask("hello"))["head"]
        size, signed = len(tree), int(head["size"])
        proof = tree.consistency(signed, size) if signed <= size else []
        note = await self._keyholder.checkpoint(size=size, root=tree.root(size), proof=proof)
        async with self._ledger.change() as book:
            await book.execute(sa.delete(audit_checkpoints).where(audit_checkpoints.c.size == size))
            await book.execute(sa.insert(audit_checkpoints).values(size=size, note=note))
        return note

    async def _check_room(self, asked: Asked) -> None:
        column = requests.c
        query = sa.select(column.source, column.identity).where(
            column.workload == asked.workload.name, column.state.in_(OPEN)
        )
        waiting = [(row.source, row.identity) for row in await self._ledger.fetch(query)]
        check_room(asked, waiting)

    async def _supersede(self, book: Book, asked: Asked, receipt: Receipt) -> None:
        """Let an older request of the same asker go.

        A stock client makes a new point at each try: an older request that nobody holds can never be answered. An enrolled
        host asks once for a workload. Nobody else supersedes anything: a claim is not enough to end a request.
        """
        column = requests.c
        query = sa.select(requests).where(
            column.workload == asked.workload.name, column.state == State.PENDING
        )
        if is_enrolled(receipt.identity):
            for row in (await book.execute(query.where(column.identity == receipt.identity))).all():
                await self.end(book, row, State.SUPERSEDED, why="the same host asks again")
        elif asked.client == "stock":
            query = query.where(column.client == "stock", column.source == asked.source)
            for row in (await book.execute(query)).all():
                if row.id not in self._waiting:
                    await self._change(book, row, State.SUPERSEDED, why="the same client asks again")

    async def _insert(self, book: Book, asked: Asked, receipt: Receipt, token: bytes) -> None:
        record = entries.request_entry(
            receipt, token, source=asked.source, claims=asked.claims, proof=asked.proof
        )
        position = await book.record(record)
        values = {
            "id": receipt.id, "workload": receipt.workload, "kid": receipt.kid, "point": receipt.point,
            "point_jwk": asked.point.jwk, "client": asked.client, "state": State.PENDING, "version": 1,
            "receipt": token, "token": receipt.poll.rpartition("/")[2], "claims": asked.claims,
            "source": asked.source, "created": receipt.issued, "expires": receipt.expires, "wrong_codes": 0,
            "needed": asked.workload.quorum, "entry_index": position, "identity": receipt.identity,
        }  # fmt: skip
        await book.execute(sa.insert(requests).values(values))

    async def _change(
        self, book: Book, row: Row, state: State, *, why: str | None, by: str | None = None
    ) -> None:
        check_change(State(row.state), state)
        column, now = requests.c, int(self._now())
        values: dict[str, Any] = {"state": state, "version": row.version + 1}
        if state not in OPEN:
            values |= {"closed": now, "closed_by": by or why}
        where = sa.and_(column.id == row.id, column.state == row.state, column.version == row.version)
        changed = await book.execute(sa.update(requests).where(where).values(values))
        if changed.rowcount != 1:
            raise StateError(State(row.state), state)
        await book.record(
            entries.change_entry(request=row.id, before=str(row.state), after=str(state), time=now, why=why)
        )
        book.after_commit(
            lambda: self._tell("change", id=row.id, workload=row.workload, state=str(state), why=why)
        )

    async def _record_decision(self, row: Row, values: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
        async with self._ledger.change() as book:
            await book.execute(
                sa.delete(statements).where(
                    statements.c.request == row.id, statements.c.operator == values["operator"]
                )
            )
            await book.execute(sa.insert(statements).values(values))
            await book.record(_decision_entry(values, counts=True))
            if verdict["denied_by"] is not None:
                await self._change(book, row, State.DENIED, why="denied", by=verdict["denied_by"])
            elif verdict["opens"] and row.state == State.PENDING:
                await self._change(book, row, State.APPROVED, why="quorum reached")
            else:
                await book.execute(
                    sa.update(requests).where(requests.c.id == row.id).values(version=row.version + 1)
                )
        self._wake(row.id)

    async def _take_refusal(self, row: Row, error: KeyholderRefusal, values: Mapping[str, Any]) -> None:
        if error.kind in ("denied", "answered"):
            await self._settle_spent(row, error.kind)
        elif error.kind == "code":
            async with self._ledger.change() as book:
                await book.record(_decision_entry(values, counts=False))
                count = row.wrong_codes + 1
                await book.execute(
                    sa.update(requests).where(requests.c.id == row.id).values(wrong_codes=count)
                )
                if count >= MAX_WRONG_CODES and row.state == State.PENDING:
                    await self._change(book, row, State.REFUSED, why="too many wrong codes")
            self._wake(row.id)

    async def _settle_spent(self, row: Row, outcome: str) -> None:
        """Keyholder closed this point, and we stopped before we wrote it down."""
        async with self._ledger.change() as book:
            if outcome == "answered" and row.state == State.APPROVED:
                await self._change(book, row, State.DELIVERED, why="answered before a stop")
            else:
                await self._change(book, row, State.DENIED, why=f"{outcome} before a stop", by="an operator")
        self._wake(row.id)

    async def _deliver(self, row: Row) -> None:
        try:
            signed = await self._questions.statements(row, self._rostered())
            given = await self._questions.ask("answer", row, signed, point=base64url.encode(row.point_jwk))
        except KeyholderRefusal as error:
            if error.kind in ("denied", "answered"):
                await self._settle_spent(row, error.kind)
                return
            async with self._ledger.change() as book:
                await self._change(book, row, State.EXPIRED, why=f"no longer approved: {error}")
            self._wake(row.id)
            return
        async with self._ledger.change() as book:
            await self._change(book, row, State.DELIVERED, why=None)
        answer = base64url.decode(str(given["answer"]))
        self._answers[row.id] = (self._monotonic() + REDELIVERY_SECONDS, answer)
        self._wake(row.id)

    async def _find(self, where: sa.ColumnElement[bool]) -> Row | None:
        rows = await self._ledger.fetch(sa.select(requests).where(where))
        return rows[0] if rows else None

    def _rostered(self) -> Roster:
        if self.roster is None:
            raise RefusedError("the gate has not started yet")
        return self.roster

    def _wake(self, name: str) -> None:
        for event in self._waiting.get(name, ()):
            event.set()


def _decision_entry(values: Mapping[str, Any], *, counts: bool) -> bytes:
    return entries.decision_entry(
        statement=values["statement"], signature=values["signature"], operator=values["operator"],
        request=values["request"], time=values["time"], counts=counts,
    )  # fmt: skip
