"""The listener for people: cards as pages, and what `unlatch pending|show|approve|deny|audit` and `gate …` talk to.

Reading needs a session; statements and enrolments carry their own signatures and need none.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.identity.proof import in_words
from unlatch.errors import RefusedError, UnavailableError, UnlatchError
from unlatch.gate import asgi, page, wire
from unlatch.gate.database import Ledger
from unlatch.gate.docket import Docket, UnknownRequestError
from unlatch.gate.limits import SOURCE_RATE, Buckets
from unlatch.gate.office import Office
from unlatch.gate.question import Row
from unlatch.gate.roster import Roster
from unlatch.gate.sessions import SessionError, Sessions
from unlatch.gate.state import OPEN, StateError
from unlatch.gate.wire import KeyholderRefusal

MAX_BODY_BYTES = 64 * 1024
EXPORT_CHUNK = 256

Handler = Callable[[Request], Awaitable[Response]]


class TooLargeError(RefusedError):
    """A body over 64 KiB."""


class ShorterLogError(RefusedError):
    """The asker has seen a longer log than this gate has: one of the two was rewritten."""


class People:
    """The handlers behind the Starlette application `app`."""

    def __init__(
        self, docket: Docket, ledger: Ledger, sessions: Sessions, office: Office,
        *, origin: str, now: Callable[[], float], monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        self._docket, self._ledger, self._sessions, self._office = docket, ledger, sessions, office
        self._origin, self._now, self._monotonic = origin, now, monotonic
        self._sources = Buckets(SOURCE_RATE)
        self.app = Starlette(
            routes=[
                Route("/adv", self._advertisement),
                Route("/r/{id}", self._guard(self._card)),
                Route("/o/challenge", self._guard(self._challenge)),
                Route("/o/session", self._guard(self._session), methods=["POST"]),
                Route("/o/requests", self._guard(self._requests)),
                Route("/o/requests/{id}", self._guard(self._request)),
                Route("/o/requests/{id}/decision", self._guard(self._decision), methods=["POST"]),
                Route("/o/checkpoint", self._guard(self._checkpoint)),
                Route("/o/audit", self._guard(self._audit)),
                Route("/o/chain", self._guard(self._chain)),
                Route("/o/keys", self._guard(self._new_key), methods=["POST"]),
                Route("/o/enrolments", self._guard(self._enrol), methods=["POST"]),
            ]
        )

    def _guard(self, handler: Handler) -> Handler:
        """Limit how often one source may ask, and turn refusals into JSON."""

        async def guarded(request: Request) -> Response:
            source = asgi.source_of(asgi.peer(request.scope))
            if wait := self._sources.take(source, now=self._monotonic()):
                return JSONResponse({"error": "busy"}, 429, {"Retry-After": str(wait)})
            try:
                return await handler(request)
            except UnlatchError as error:
                return JSONResponse({"error": _kind(error), "message": str(error)}, _status(error))
            except ClientDisconnect:
                return Response(status_code=400)

        return guarded

    async def _advertisement(self, _: Request) -> Response:
        return Response(await self._office.advertisement(), media_type="application/jose+json")

    async def _card(self, request: Request) -> Response:
        try:
            row = await self._docket.get(request.path_params["id"])
        except UnknownRequestError:
            return HTMLResponse(page.render_unknown(), 404, page.HEADERS)
        return HTMLResponse(page.render_card(await self._facts(row)), headers=page.HEADERS)

    async def _facts(self, row: Row) -> page.Card:
        progress = await self._docket.progress(row)
        askers = [one for one in await self._docket.list_open() if one.workload == row.workload]
        return page.Card(
            request=row.id,
            workload=row.workload,
            gate=self._roster().genesis.gate,
            people=self._origin,
            client=row.client,
            source=row.source,
            asked=datetime.fromtimestamp(row.created, UTC).strftime("%H:%M:%S UTC"),
            state=progress.state,
            approvals=progress.approvals,
            needed=progress.needed,
            seconds_left=max(0, int(row.expires - self._now())),
            askers=len(askers),
            closed_by=row.closed_by,
            claims=Claims.parse(row.claims) if row.claims is not None else None,
            identity=row.identity,
        )

    async def _challenge(self, _: Request) -> Response:
        roster = self._roster()
        return JSONResponse(
            {"nonce": self._sessions.challenge(), "gate": roster.genesis.gate, "origin": self._origin}
        )

    async def _session(self, request: Request) -> Response:
        body = await _read(request)
        token, operator, expires = await self._sessions.open(
            nonce=wire.text_of(body, "nonce"),
            signature=wire.text_of(body, "signature"),
            roster=self._roster(),
            origin=self._origin,
        )
        return JSONResponse({"token": token, "operator": operator.name, "expires": expires})

    async def _requests(self, request: Request) -> Response:
        operator = await self._operator(request)
        rows = await self._docket.list_open()
        return JSONResponse(
            {
                "operator": operator,
                "now": int(self._now()),
                "requests": [await self._summary(row) for row in rows],
            }
        )

    async def _request(self, request: Request) -> Response:
        operator = await self._operator(request)
        row = await self._docket.get(request.path_params["id"])
        note = await self._docket.checkpoint()
        tree = self._ledger.tree
        size = int(note.split("\n")[1])
        record = (await self._ledger.entries(row.entry_index, row.entry_index + 1))[0]
        return JSONResponse(
            {
                **await self._summary(row),
                "operator": operator,
                "now": int(self._now()),
                "receipt": base64url.encode(row.receipt),
                "entry": base64url.encode(record),
                "index": row.entry_index,
                "inclusion": _steps(tree.inclusion(row.entry_index, size)),
                **self._consistency(request, note),
            }
        )

    async def _decision(self, request: Request) -> Response:
        body = await _read(request)
        row = await self._docket.decide(
            request.path_params["id"],
            statement=wire.bytes_of(body, "statement"),
            signature=wire.text_of(body, "signature"),
        )
        return JSONResponse(await self._summary(row))

    async def _checkpoint(self, request: Request) -> Response:
        await self._operator(request)
        return JSONResponse(self._consistency(request, await self._docket.checkpoint()))

    async def _audit(self, request: Request) -> Response:
        await self._operator(request)
        note = await self._docket.checkpoint()
        head = {"unlatch-audit": 1, "fingerprint": self._roster().fingerprint, "checkpoint": note}
        return StreamingResponse(self._export(head), media_type="application/jsonl")

    async def _export(self, head: dict[str, Any]) -> AsyncIterator[bytes]:
        yield json.dumps(head).encode() + b"\n"
        size = int(head["checkpoint"].split("\n")[1])
        for start in range(0, size, EXPORT_CHUNK):
            for record in await self._ledger.entries(start, min(start + EXPORT_CHUNK, size)):
                yield record + b"\n"

    async def _chain(self, request: Request) -> Response:
        await self._operator(request)
        return JSONResponse({"links": self._office.links()})

    async def _new_key(self, request: Request) -> Response:
        name = await self._operator(request)
        if not self._roster().operators[name].is_admin:
            raise RefusedError(f"{name} is no administrator")
        return JSONResponse(await self._office.new_key())

    async def _enrol(self, request: Request) -> Response:
        body = await _read(request)
        answer = await self._office.enrol(wire.bytes_of(body, "enrolment"), wire.text_of(body, "signature"))
        return JSONResponse(answer)

    async def _operator(self, request: Request) -> str:
        return (await self._sessions.check(request.headers.get("authorization"), roster=self._roster())).name

    async def _summary(self, row: Row) -> dict[str, Any]:
        progress = await self._docket.progress(row)
        return {
            "id": row.id, "workload": row.workload, "client": row.client, "state": progress.state,
            "approvals": list(progress.approvals), "needed": progress.needed, "created": row.created,
            "expires": row.expires, "source": row.source, "closed_by": row.closed_by,
            "wrong_codes": row.wrong_codes, "identity": in_words(row.identity),
            "claims": base64url.encode(row.claims) if row.claims is not None else None,
        }  # fmt: skip

    def _consistency(self, request: Request, note: str) -> dict[str, Any]:
        """A checkpoint, with the proof that it extends the one that the operator's program saw last."""
        tree, size = self._ledger.tree, int(note.split("\n")[1])
        since = request.query_params.get("since", "0")
        if not since.isdecimal() or not since.isascii() or not int(since) <= size:
            raise ShorterLogError(f"the log holds {size} entries only")
        return {"checkpoint": note, "consistency": _steps(tree.consistency(int(since), size))}

    def _roster(self) -> Roster:
        if self._docket.roster is None:
            raise UnavailableError("the gate is starting")
        return self._docket.roster


_KINDS: dict[type[UnlatchError], str] = {
    UnknownRequestError: "unknown",
    SessionError: "session",
    wire.WireError: "malformed",
    TooLargeError: "size",
    ShorterLogError: "shorter",
}


async def _read(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"a body over {MAX_BODY_BYTES} bytes")
    try:
        return strict_json.read_object(bytes(body))
    except ValueError as error:
        raise wire.WireError("not a JSON object") from error


def _steps(proof: list[bytes]) -> list[str]:
    return [base64url.encode(step) for step in proof]


def _kind(error: UnlatchError) -> str:
    if isinstance(error, KeyholderRefusal):
        return error.kind
    if isinstance(error, StateError):
        return str(error.current) if error.current not in OPEN else "conflict"
    return _KINDS.get(type(error), "refused" if isinstance(error, RefusedError) else "unavailable")


def _status(error: UnlatchError) -> int:
    if isinstance(error, UnknownRequestError):
        return 404
    if isinstance(error, SessionError):
        return 401
    if isinstance(error, StateError):
        return 409
    if isinstance(error, wire.WireError):
        return 400
    if isinstance(error, TooLargeError):
        return 413
    return 403 if isinstance(error, RefusedError) else 503
