"""The listener for machines: Tang's three routes under ``/s/WORKLOAD``, and the native request on top of them.

Statuses and headers are tangd's wherever tangd has one. A stock client's POST is held open until the decision and never
answered 202 or 3xx; a native client gets a receipt and polls. A native client that names a host key is challenged first
(401, or with a 429), and what it proves then decides which limits it meets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import HEADER, MAX_HEADER_BYTES, Claims
from unlatch.bootstrap.approval.receipt import MEDIA_TYPE
from unlatch.bootstrap.identity import proof
from unlatch.bootstrap.identity.proof import Asking, Identity
from unlatch.errors import BusyError, RefusedError, UnavailableError
from unlatch.gate import asgi
from unlatch.gate.asgi import Reply
from unlatch.gate.challenges import USABLE_SECONDS, Challenges
from unlatch.gate.docket import Docket
from unlatch.gate.identity import StaleChallengeError, identify
from unlatch.gate.keyholder_client import KeyholderClient
from unlatch.gate.limits import HOST_RATE, POLL_RATE, PROOF_RATE, SOURCE_RATE, WORKLOAD_RATE, Buckets
from unlatch.gate.protocol import MAX_BODY_BYTES, Route, StatusError, read_recovery, route
from unlatch.gate.question import Row
from unlatch.gate.request import Asked
from unlatch.gate.roster import Roster, Workload
from unlatch.gate.state import State

HASHES = ("sha256", "sha1", "sha224", "sha384", "sha512")
POLL_SECONDS = 25.0
ADVERTISEMENT = "application/jose+json"
ANSWER = "application/jwk+json"


@dataclass(slots=True)
class Keys:
    """The public keys by every thumbprint that a path may name, and the signed advertisements."""

    signing: frozenset[str] = frozenset()
    exchange: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    advertisements: dict[tuple[str, bool], bytes] = field(default_factory=dict)


class Machines:
    """The ASGI application.

    Args:
        people: public address of the people's listener: cards live there.
        now: Unix seconds.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self, docket: Docket, keyholder: KeyholderClient,
        *, people: str, now: Callable[[], float], monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        self._docket, self._keyholder = docket, keyholder
        self._people, self._now, self._monotonic = people, now, monotonic
        self._challenges = Challenges(keyholder, monotonic=monotonic)
        self._keys = Keys()
        self._sources, self._workloads = Buckets(SOURCE_RATE), Buckets(WORKLOAD_RATE)
        self._polls, self._hosts, self._proofs = Buckets(POLL_RATE), Buckets(HOST_RATE), Buckets(PROOF_RATE)
        self.stopping = False

    async def learn(self, roster: Roster) -> None:
        """Take over the keys of a roster: at start and after each enrolment."""
        keys = Keys()
        gate = await self._advertise(keys, "", twice=False)
        keys.signing = thumbprints(_payload_keys(gate)[0])
        for name in roster.workloads:
            body = await self._advertise(keys, name, twice=False)
            await self._advertise(keys, name, twice=True)
            exchange = _payload_keys(body)[1]
            # An older epoch's key answers too, but is not advertised; the roster knows its kid only.
            keys.exchange[name] = dict.fromkeys(thumbprints(exchange), exchange)
            for kid, owner in roster.kids.items():
                if owner == name and kid not in keys.exchange[name]:
                    old = (await self._keyholder.ask("public", kid=kid))["public"]
                    keys.exchange[name] |= dict.fromkeys(thumbprints(old), old)
        self._keys = keys

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            reply = await self._answer(scope, receive)
        except StatusError as error:
            reply = Reply(error.status)
        except UnavailableError:
            reply = Reply(503)  # keyholder has ended, and this process ends next
        except asgi.DisconnectedError:
            return
        if reply is not None:
            await reply.send(send)

    async def _answer(self, scope: asgi.Scope, receive: asgi.Receive) -> Reply | None:
        target = asgi.raw_target(scope)
        path, _, query = target.partition("?")
        asked = route(scope["method"], path if "/wait/" in path else target)
        if asked.kind == "gate":
            return Reply(200, self._keys.advertisements["", False], ADVERTISEMENT)
        if asked.kind == "card":
            return Reply(302, extra={"Location": f"{self._people}/r/{asked.rest}"})
        if asked.kind == "advertisement":
            return self._advertisement(asked)
        if asked.kind == "wait":
            return await self._poll(scope, asked, query)
        return await self._recover(scope, receive, asked)

    def _advertisement(self, asked: Route) -> Reply:
        if asked.rest and asked.rest not in self._keys.signing:
            raise StatusError(404)
        body = self._keys.advertisements.get((asked.workload, bool(asked.rest)))
        if body is None:
            raise StatusError(404)
        return Reply(200, body, ADVERTISEMENT)

    async def _recover(self, scope: asgi.Scope, receive: asgi.Receive, asked: Route) -> Reply | None:
        native = asgi.header(scope, "accept") == MEDIA_TYPE
        shown = asgi.header(scope, proof.HEADER) if native else None
        source = asgi.peer(scope)
        wait = self._sources.take(asgi.source_of(source), now=self._monotonic())
        if wait and not self._may_prove(shown):
            return await self._busy(wait, native=native, shown=shown)
        body = await asgi.read_body(receive, limit=MAX_BODY_BYTES)
        request = self._read(scope, body, asked, native=native, source=source)
        if not request.workload.allows(request.client):
            return _refused("policy", "this workload does not answer such clients", native=native)
        try:
            identity = self._identify(shown, request)
        except StaleChallengeError:
            return await self._challenge(wait)
        except RefusedError as error:
            return _refused("policy", str(error), native=native)
        request = replace(request, proof=shown, identity=identity)
        if wait := self._take_turn(request, wait):
            return await self._busy(wait, native=native, shown=shown)
        try:
            row = await self._docket.receive(request)
        except BusyError:
            return await self._busy(10, native=native, shown=shown)
        except RefusedError:
            return _refused("policy", "the gate does not take this request", native=native)
        return self._promise(row) if native else await self._hold(row, receive)

    def _read(self, scope: asgi.Scope, body: bytes, asked: Route, *, native: bool, source: str) -> Asked:
        """Check everything that needs no key of a host, in tangd's order."""
        roster = self._docket.roster
        workload = roster.workloads.get(asked.workload) if roster else None
        exchange = self._keys.exchange.get(asked.workload, {})
        kid, point = read_recovery(body, kid=asked.rest, exchange=exchange, signing=self._keys.signing)
        if workload is None:
            raise StatusError(404)
        client = "native" if native else "stock"
        claims = _read_claims(scope, workload) if native and workload.allows(client) else None
        return Asked(workload=workload, kid=kid, point=point, client=client, claims=claims, source=source)

    def _identify(self, shown: str | None, request: Asked) -> Identity | None:
        """Who asks; None where the asker names no key.

        Raises:
            StaleChallengeError: it must sign a challenge first.
            RefusedError: the proof is wrong, or the key counts no more.
        """
        roster = self._docket.roster
        if shown is None or request.claims is None or roster is None:
            return None
        asking = Asking(request.workload.name, request.kid, request.point.thumbprint, request.claims)
        return identify(shown, asking, roster=roster, now=self._now(), max_age=USABLE_SECONDS)

    def _may_prove(self, shown: str | None) -> bool:
        """Whether a proof is looked at although its source has asked too often: others may share a host's address.

        Only an enrolled key gets so far, and each one so often: who does not know one cannot make this gate verify.
        """
        roster = self._docket.roster
        if shown is None or "." not in shown or roster is None:
            return False
        try:
            thumbprint = proof.HostKey.parse(shown.partition(".")[0]).thumbprint
        except proof.ProofError:
            return False
        return thumbprint in roster.host_keys and not self._proofs.take(thumbprint, now=self._monotonic())

    def _take_turn(self, request: Asked, wait: int) -> int:
        """Seconds to wait: an enrolled host has a turn of its own, all others share their source's and workload's."""
        name, now = request.workload.name, self._monotonic()
        if request.identity is not None and request.identity.is_enrolled:
            return self._hosts.take(f"{name} {request.identity.key}", now=now)
        return wait or self._workloads.take(name, now=now)

    async def _challenge(self, wait: int) -> Reply:
        """Ask for a signature: 401, or 429 where the source must wait too."""
        if wait:
            return await self._busy(wait, native=True, shown="")
        extra = {proof.CHALLENGE_HEADER: await self._challenges.current(), "WWW-Authenticate": proof.HEADER}
        return Reply.of_json(401, {"error": "challenge"}, extra=extra)

    async def _busy(self, seconds: int, *, native: bool, shown: str | None) -> Reply:
        """429 with Retry-After for those who understand it; stock clients give up at any status from 400 on."""
        if not native:
            return Reply(503)
        extra = {"Retry-After": str(seconds)}
        if shown is not None:
            extra[proof.CHALLENGE_HEADER] = await self._challenges.current()
        return Reply.of_json(429, {"error": "busy"}, extra=extra)

    def _promise(self, row: Row) -> Reply:
        """A receipt while the request is open; afterwards what became of it, but never the answer a second time."""
        if State(row.state) in (State.PENDING, State.APPROVED):
            return Reply(202, row.receipt, MEDIA_TYPE)
        return _ended(row)

    async def _hold(self, row: Row, receive: asgi.Receive) -> Reply | None:
        gone = asyncio.ensure_future(asgi.until_disconnect(receive))
        try:
            while State(row.state) == State.PENDING and not self.stopping:
                change = asyncio.ensure_future(self._docket.wait(row, seconds=POLL_SECONDS))
                await asyncio.wait({gone, change}, return_when=asyncio.FIRST_COMPLETED)
                if not change.done():
                    change.cancel()
                    await self._docket.close(row, State.CANCELLED, why="the client went away")
                    return None
                row = change.result()
            answer = await self._docket.collect(row) if State(row.state) == State.APPROVED else None
        finally:
            gone.cancel()
        if answer is not None:
            return Reply(200, answer, ANSWER)
        row = await self._docket.get(row.id)
        return Reply(403 if State(row.state) in (State.DENIED, State.REFUSED) else 503)

    async def _poll(self, scope: asgi.Scope, asked: Route, query: str) -> Reply:
        if wait := self._polls.take(asgi.source_of(asgi.peer(scope)), now=self._monotonic()):
            return await self._busy(wait, native=True, shown=None)
        row = await self._docket.find_token(asked.workload, asked.rest)
        if row is None:
            raise StatusError(404)
        seen = parse_qs(query).get("seen", [""])[0]
        if State(row.state) == State.PENDING and seen == str(row.version) and not self.stopping:
            row = await self._docket.wait(row, seconds=POLL_SECONDS)
        if State(row.state) in (State.APPROVED, State.DELIVERED):
            answer = await self._docket.collect(row)
            if answer is not None:
                progress = await self._docket.progress(row)
                names = ", ".join(progress.approvals)
                return Reply(200, answer, ANSWER, {"Unlatch-Approved-By": names})
            row = await self._docket.get(row.id)
        if State(row.state) != State.PENDING:
            return _ended(row)
        progress = await self._docket.progress(row)
        state = {
            "state": progress.state, "approvals": list(progress.approvals), "needed": progress.needed,
            "expires": progress.expires, "version": progress.version,
        }  # fmt: skip
        return Reply.of_json(202, state)

    async def _advertise(self, keys: Keys, name: str, *, twice: bool) -> bytes:
        answer = await self._keyholder.ask("advertise", workload=name, twice=twice)
        keys.advertisements[name, twice] = body = str(answer["body"]).encode()
        return body


def thumbprints(key: Mapping[str, Any]) -> frozenset[str]:
    """A key's thumbprints in all five hashes that tangd takes in a path."""
    return frozenset(jose.thumbprint(key, algorithm=name) for name in HASHES)


def _payload_keys(advertisement: bytes) -> list[Mapping[str, Any]]:
    document = jose.read_json(advertisement)
    assert isinstance(document, dict)
    payload = jose.read_json(base64url.decode(document["payload"]))
    assert isinstance(payload, dict)
    keys: list[Mapping[str, Any]] = payload["keys"]
    return keys


def _read_claims(scope: asgi.Scope, workload: Workload) -> bytes:
    text = asgi.header(scope, HEADER)
    try:
        if text is None or len(text) > MAX_HEADER_BYTES:
            raise ValueError("no claims, or too many")
        data = base64url.decode(text)
        if Claims.parse(data).workload != workload.name:
            raise ValueError("claims of another workload")
    except ValueError as error:
        raise StatusError(400) from error
    return data


def _ended(row: Row) -> Reply:
    state = State(row.state)
    if state == State.DENIED:
        return Reply.of_json(403, {"error": "denied", "by": row.closed_by})
    if state == State.REFUSED:
        return Reply.of_json(403, {"error": "policy", "message": row.closed_by})
    return Reply.of_json(410, {"error": "answered" if state == State.DELIVERED else str(state)})


def _refused(error: str, message: str, *, native: bool) -> Reply:
    return Reply.of_json(403, {"error": error, "message": message}) if native else Reply(403)
