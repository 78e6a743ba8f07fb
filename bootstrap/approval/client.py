"""The asker: posts a point to a gate, verifies the receipt, waits for a person.

Rule 1: nothing is believed before the receipt's signature, point, claims, expiry and addresses are checked (`receipt`).
Rule 2: a lost link comes back with the same point, so it finds its own request and its decision.
Rule 3: no redirect is followed, every answer is bounded, every wait ends at the deadline. A time-out is never a grant.
Rule 4: the code goes to `on_event` once, and into no error, log or repr.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.approval.claims import HEADER, Claims, header_value
from unlatch.bootstrap.approval.receipt import (
    MEDIA_TYPE,
    Receipt,
    check_receipt,
    pinned_keys,
    split_gate_url,
    verify_receipt,
)
from unlatch.bootstrap.approval.words import printable
from unlatch.bootstrap.http import Http, HttpReply, RequestsHttp
from unlatch.bootstrap.identity import proof
from unlatch.bootstrap.identity.introduction import Introduction
from unlatch.bootstrap.identity.keys import HostSigner
from unlatch.errors import (
    BusyError,
    DeniedError,
    PendingError,
    PolicyRefusedError,
    UndecidedError,
    UnknownKeyError,
    UnlatchError,
    UnreachableError,
    UntrustedGateError,
)

ANSWER = "application/jwk+json"
POST_SECONDS = 30.0
POLL_SECONDS = 40.0  # the gate answers a poll after 25 s at the latest
FIRST_TRIES = 4
BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0
MIN_RETRY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Waiting:
    """A receipt was verified. `code` is for the asking console only; `expires` is in Unix seconds."""

    workload: str
    card: str
    expires: int
    code: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One line of text for whoever waits."""

    text: str


Event = Waiting | Change


@dataclass(frozen=True, slots=True)
class GateTransport:
    """Carries a point to a gate (or a plain Tang server) and waits for the answer. Safe to use from several threads.

    Args:
        claims: what the asker says of itself; the workload is replaced by the one that each gate's address names. None
            asks as a stock client does, without a receipt.
        host: this host's key; None asks without a name. Stock askers have none.
        gates: thumbprints of `unlock.gates`; None believes the sealed file alone.
        wait: seconds until UndecidedError.
        until_expiry: wait longer, for as long as the gate keeps the request.
        no_wait: raise PendingError as soon as the receipt is verified.
        on_event: called with Waiting and Change, one at a time.
        now, monotonic, sleep: the clock, as `time.time`, `time.monotonic`, `time.sleep`.
        uniform: a random number from 0 up to its argument.
        http: carries requests.
    """

    claims: Claims | None
    gates: frozenset[str] | None
    wait: float
    now: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    uniform: Callable[[float], float]
    on_event: Callable[[Event], None] = lambda _: None
    no_wait: bool = False
    until_expiry: bool = False
    host: HostSigner | None = None
    http: Http = field(default_factory=RequestsHttp)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def recover(
        self,
        *,
        url: str,
        kid: str,
        request: bytes,
        thumbprint: str,
        signing_keys: Sequence[Mapping[str, object]],
    ) -> bytes:
        """Give the server's answer (JWK JSON) for a point.

        Args:
            url: the address in the sealed file, ``…/s/WORKLOAD`` for a gate.
            kid: thumbprint of the exchange key.
            request: the point as JWK JSON.
            thumbprint: SHA-256 thumbprint of the point.
            signing_keys: public JWKs that the sealed file pins.

        Raises:
            UntrustedGateError: the gate is not the pinned one, or answers what no gate answers.
            DeniedError, PolicyRefusedError, UnknownKeyError: it said no.
            UndecidedError, PendingError, UnreachableError, BusyError: no decision (yet).
        """
        keys = pinned_keys(signing_keys, gates=self.gates)
        base, workload = split_gate_url(url)
        claims = None
        if self.claims is not None and workload is not None:
            claims = self.claims.for_workload(workload).encode()
        address = f"{base}/s/{workload}" if workload is not None else base
        introduction = None
        if self.host is not None and claims is not None and workload is not None:
            facts = proof.Asking(workload, kid, thumbprint, claims)
            introduction = Introduction(self.host, facts, lambda text: self.tell(Change(text)))
        asking = _Asking(
            self, base, workload or "", address, kid, request, thumbprint, keys, claims, introduction
        )
        return asking.run()

    def tell(self, event: Event) -> None:
        """Pass an event on; several gates may be asked at once."""
        with self._lock:
            self.on_event(event)


@dataclass(slots=True)
class _Asking:
    """One point at one gate."""

    transport: GateTransport
    base: str
    workload: str
    address: str
    kid: str
    point: bytes
    thumbprint: str
    keys: Sequence[Mapping[str, Any]]
    claims: bytes | None
    introduction: Introduction | None = None
    deadline: float = 0.0
    failures: int = 0

    @property
    def shown(self) -> str:
        """The gate's address without a name and password in it: for messages, and to compare with the receipt."""
        scheme, separator, rest = self.base.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"

    def run(self) -> bytes:
        transport = self.transport
        started = transport.monotonic()
        self.deadline = started + transport.wait
        reply = self._post()
        if reply.status == 200:
            return _answer(reply, self.shown)
        receipt = self._verify(reply)
        if transport.until_expiry:
            self.deadline = max(self.deadline, transport.monotonic() + receipt.expires - transport.now())
        transport.tell(Waiting(self.workload, receipt.card, receipt.expires, receipt.code))
        if transport.no_wait:
            raise PendingError(f"{self.workload} waits for approval", hint=f"its card: {receipt.card}")
        reply = self._poll(receipt)
        names = printable(reply.header("Unlatch-Approved-By") or "the gate")
        transport.tell(Change(f"opened by {names} after {transport.monotonic() - started:.0f} s"))
        return _answer(reply, self.shown)

    def _post(self) -> HttpReply:
        """Post the point until the gate answers: 200, or 202 with a receipt."""
        while True:
            try:
                reply = self.transport.http.send(
                    "POST", f"{self.address}/rec/{self.kid}", headers=self._headers(), body=self.point,
                    seconds=self._seconds(POST_SECONDS if self.claims is not None else self.transport.wait),
                )  # fmt: skip
            except UnreachableError:
                self.failures += 1
                if self.failures >= FIRST_TRIES:
                    raise
                self._pause(None, what=f"{self.shown} unreachable")
                continue
            if reply.status == 200 or (reply.status == 202 and self.claims is not None):
                return reply
            challenged = self.introduction is not None and self.introduction.take_challenge(
                reply, address=self.shown
            )
            if reply.status == 429:
                self._pause(reply.retry_after, what=f"{self.shown} is busy", busy=True)
            elif reply.status != 401 or not challenged:
                raise self._refusal(reply)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": ANSWER}
        if self.claims is not None:
            headers |= {"Accept": MEDIA_TYPE, HEADER: header_value(self.claims)}
        if self.introduction is not None and self.introduction.header is not None:
            headers[proof.HEADER] = self.introduction.header
        return headers

    def _verify(self, reply: HttpReply) -> Receipt:
        receipt = verify_receipt(reply.body.strip(), keys=self.keys)
        check_receipt(
            receipt, base=self.shown, workload=self.workload, kid=self.kid, point=self.thumbprint,
            claims=base64url.digest(self.claims) if self.claims is not None else None,
            identity=self.introduction.key if self.introduction is not None else None, now=self.transport.now(),
        )  # fmt: skip
        return receipt

    def _poll(self, receipt: Receipt) -> HttpReply:
        """Long-poll until the decision; tells of each new approval."""
        self.failures = 0
        poll = self.base + receipt.poll.removeprefix(
            self.shown
        )  # the same address, with what the sealed one carries
        seen, approved = "", frozenset[str]()
        while True:
            try:
                reply = self.transport.http.send(
                    "GET", f"{poll}?seen={seen}", headers={"Accept": f"{ANSWER}, application/json"},
                    body=None, seconds=self._seconds(POLL_SECONDS),
                )  # fmt: skip
            except UnreachableError:
                self.failures += 1
                self._pause(None, what="gate unreachable, request kept")
                continue
            if reply.status == 200:
                return reply
            if reply.status == 202:
                self.failures = 0
                state = _state(reply, self.shown)
                approved = self._tell_approvals(state, approved)
                if seen == state["version"]:
                    self._pause(MIN_RETRY_SECONDS, what=None)
                seen = state["version"]
            elif reply.status == 429 or reply.status >= 500:
                self.failures += 1
                self._pause(reply.retry_after, what="gate is busy, request kept")
            elif reply.status == 404:
                raise UndecidedError(f"{self.shown} has no such request any more", hint="ask again")
            else:
                raise self._refusal(reply)

    def _tell_approvals(self, state: Mapping[str, Any], before: frozenset[str]) -> frozenset[str]:
        names = frozenset(state["approvals"])
        if names - before:
            shown = ", ".join(printable(name) for name in sorted(names))
            self.transport.tell(Change(f"{len(names)} of {state['needed']} approved ({shown})"))
        return names

    def _seconds(self, most: float) -> float:
        left = self.deadline - self.transport.monotonic()
        if left <= 0:
            raise self._undecided()
        return max(1.0, min(most, left))

    def _pause(self, asked: float | None, *, what: str | None, busy: bool = False) -> None:
        """Sleep as long as the gate asks, or with full jitter; never past the deadline."""
        ceiling = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(self.failures, 8))
        seconds = asked if asked is not None else max(MIN_RETRY_SECONDS, self.transport.uniform(ceiling))
        left = self.deadline - self.transport.monotonic()
        if seconds >= left:
            if busy:
                raise BusyError(
                    f"{self.shown} is busy, and asks to wait {seconds:.0f} s", hint="ask again later"
                )
            self.transport.sleep(max(0.0, left))
            raise self._undecided()
        if what is not None:
            self.transport.tell(Change(f"{what}, trying again in {max(1, round(seconds))} s"))
        self.transport.sleep(seconds)

    def _undecided(self) -> UnlatchError:
        return UndecidedError(
            f"nobody decided on {self.workload or self.shown} within {self.transport.wait:.0f} s",
            hint="ask again: an operator must run `unlatch pending` on time",
        )

    def _refusal(self, reply: HttpReply) -> UnlatchError:
        if reply.status == 404:
            return UnknownKeyError(
                f"{self.shown} does not know the key that the file was sealed to ({self.kid[:4]}…{self.kid[-4:]})",
                hint="was the key retired, or the file sealed to another gate? `unlatch inspect` names it",
            )
        if self.claims is None and reply.status == 403:
            return PolicyRefusedError(
                f"{self.shown} refuses this request", hint="denied, or not for such a client"
            )
        if self.claims is None and reply.status == 503:
            return UndecidedError(f"nobody decided at {self.shown}, or it is busy", hint="ask again")
        if self.claims is not None and reply.status in (403, 410):
            return _ended(reply, self.shown, self.workload)
        if reply.status >= 500 or 300 <= reply.status < 400:
            kind = "a redirect" if reply.status < 400 else f"status {reply.status}"
            return UnreachableError(
                f"{self.shown} answered with {kind}", hint="is this the gate's own address?"
            )
        return UntrustedGateError(
            f"{self.shown} answered with status {reply.status}, which no gate gives",
            hint="is this address a gate?",
        )


def _ended(reply: HttpReply, base: str, workload: str) -> UnlatchError:
    facts = _object(reply, base)
    error = facts.get("error")
    if error == "denied":
        who = printable(str(facts.get("by") or "an operator"))
        return DeniedError(
            f"{workload} was denied by {who}", hint="ask the operator why before you ask again"
        )
    if error == "policy":
        return PolicyRefusedError(
            f"the gate's policy refuses {workload}: {printable(str(facts.get('message')))}"
        )
    if error == "answered":
        return UndecidedError(
            f"this request for {workload} was answered before, and the answer did not arrive",
            hint="ask again: one approval answers one request, once",
        )
    if reply.status == 410:
        return UndecidedError(f"the request for {workload} ended: {printable(str(error))}", hint="ask again")
    return UntrustedGateError(
        f"{base} answered with a refusal that no gate gives", hint="is this address a gate?"
    )


def _answer(reply: HttpReply, base: str) -> bytes:
    """The answer's JWK, if it can be one; its point is checked where it is used."""
    if _object(reply, base).get("kty") != "EC":
        raise UntrustedGateError(
            f"{base} answered with something that is no point", hint="is this address a gate?"
        )
    return reply.body


def _state(reply: HttpReply, base: str) -> dict[str, Any]:
    facts = _object(reply, base)
    approvals, needed, version = facts.get("approvals"), facts.get("needed"), facts.get("version")
    if not isinstance(approvals, list) or not all(isinstance(name, str) for name in approvals):
        raise UntrustedGateError(f"{base} answered with a state that is none")
    if type(needed) is not int or type(version) is not int:
        raise UntrustedGateError(f"{base} answered with a state that is none")
    return {"approvals": approvals, "needed": needed, "version": str(version)}


def _object(reply: HttpReply, base: str) -> dict[str, Any]:
    try:
        return strict_json.read_object(reply.body)
    except ValueError as error:
        found = "HTML" if reply.body.lstrip()[:1] == b"<" else "something"
        raise UntrustedGateError(
            f"{base} answered with {found} instead of JSON (status {reply.status})",
            hint="does a log-in page or proxy stand before the gate?",
        ) from error
