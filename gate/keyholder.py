"""Keyholder: the one process of the gate that can answer a point, and that decides itself whether it may.

Rule 1: it has no network, one socket, and treats whoever holds the other end as broken or hostile.
Rule 2: operators, workloads and quorums come from the chain of enrolments on its own disk, verified from the genesis on.
Rule 3: a point is spent on disk before its answer leaves, and is answered or denied once, whatever happens after.
Rule 4: a checkpoint is signed only if it extends the last one that was signed.
Rule 5: a receipt names a host only if keyholder itself checked that host's signature.

Its process is `keyholder_main`; the formats are docs/protocol.md section 9.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.code import NONCE_BYTES, derive_code
from unlatch.bootstrap.approval.receipt import Receipt, verify_receipt
from unlatch.bootstrap.identity.proof import Asking
from unlatch.errors import RefusedError, UntrustedGateError
from unlatch.gate import durable, wire
from unlatch.gate.enrolment import Genesis, Link, SetWorkload, read_enrolment, write_enrolment
from unlatch.gate.identity import identify
from unlatch.gate.judge import Case, SignedStatement, Verdict, judge
from unlatch.gate.merkle import EMPTY_ROOT, verify_consistency
from unlatch.gate.protocol import StatusError, read_point
from unlatch.gate.roster import Roster
from unlatch.gate.statement import WrongCodeError
from unlatch.gate.vault import ALGORITHM, Vault, WrappedKey, write_jws
from unlatch.memguard._native import Secret

ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no 0 1 I O: people read card addresses aloud
ID_LETTERS = 8
TOKEN_BYTES = 16
MAX_STATEMENTS = 32
MAX_PROOF = 64
MAX_NEW_KEYS = 16
CHAIN_BYTES = 128 * 1024  # of links in one answer: a frame holds 256 KiB, one link at most 27 KiB

Message = Mapping[str, Any]


class SpentError(RefusedError):
    """A point was answered or denied before. `outcome` says which."""

    def __init__(self, outcome: str) -> None:
        super().__init__(f"this point was {outcome} before")
        self.outcome = outcome


class Spent:
    """The points that were answered or denied, on disk before anybody learns of it."""

    def __init__(self, path: Path) -> None:
        self._journal = durable.Journal(path)
        self._outcomes = dict(line.decode("ascii").split(" ", 1) for line in self._journal.lines)

    def check(self, point: str) -> None:
        """Refuse a spent point.

        Raises:
            SpentError: says what became of it.
        """
        outcome = self._outcomes.get(point)
        if outcome is not None:
            raise SpentError(outcome)

    def spend(self, point: str, outcome: str) -> None:
        """Mark a point as ``answered`` or ``denied``; returns when it is on disk."""
        self.check(point)
        self._journal.append(f"{point} {outcome}".encode())
        self._outcomes[point] = outcome


class Keyholder:
    """Answers one decider's questions, one after the other.

    Args:
        folder: DIR/keyholder.
        origin: public address of the machines' listener, without a slash at the end.
        people: public address of the people's listener.
        now: Unix seconds.
        random_bytes: as `secrets.token_bytes`.
        master: the opened master key; None opens one that needs no hardware.
    """

    def __init__(
        self,
        folder: Path,
        *,
        origin: str,
        people: str,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        master: Secret | None = None,
    ) -> None:
        self._vault = Vault(folder, master=master)
        self._origin, self._people = origin, people
        self._now, self._random = now, random_bytes
        self._chain = durable.Journal(folder / "chain")
        self._roster = Roster.fold(_links(self._chain))
        if (
            self._roster.genesis.gate != self._vault.thumbprint
            or self._roster.log_keys != self._vault.log_keys
        ):
            raise RefusedError("the chain of enrolments is another gate's")
        self._spent = Spent(folder / "spent")
        self._head_path = folder / "head.json"
        self._size, self._root = _read_head(self._head_path)
        self._new_keys: dict[str, WrappedKey] = {}
        self._questions: dict[str, Callable[[Message], Message]] = {
            "hello": self._hello,
            "chain": self._list_chain,
            "enrol": self._enrol,
            "new-key": self._new_key,
            "advertise": self._advertise,
            "public": self._public,
            "challenge": self._challenge,
            "receive": self._receive,
            "checkpoint": self._checkpoint,
            "judge": self._judge,
            "answer": self._answer,
        }

    def answer(self, message: Message) -> Message:
        """One question's answer; a refusal is an answer too."""
        question = self._questions.get(str(message.get("do")))
        if question is None:
            return {"refused": "unknown", "message": "no such question"}
        try:
            return {"ok": question(message)}
        except RefusedError as error:
            return {"refused": _kind(error), "message": str(error)}

    def _hello(self, _: Message) -> Message:
        return {
            "gate": self._vault.thumbprint,
            "fingerprint": self._roster.fingerprint,
            "signing": self._vault.signing_public,
            "head": {"size": self._size, "root": base64url.encode(self._root)},
        }

    def _list_chain(self, message: Message) -> Message:
        start, room = wire.number_of(message, "start"), CHAIN_BYTES
        links: list[Any] = []
        for line in self._chain.lines[start:]:
            room -= len(line)
            if links and room < 0:
                break
            links.append(json.loads(line))
        return {"links": links, "count": len(self._chain.lines)}

    def _enrol(self, message: Message) -> Message:
        data, signature = wire.bytes_of(message, "enrolment"), wire.text_of(message, "signature")
        roster = self._roster.enrol(data, signature)
        _, change = read_enrolment(data)
        if isinstance(change, SetWorkload) and change.kid not in self._roster.kids:
            key = self._new_keys.get(change.kid)
            if key is None:
                raise RefusedError("no such new key: ask for one and sign again")
            self._vault.store(key)
            del self._new_keys[change.kid]
        self._chain.append(link_line(data, signature))
        self._roster = roster
        return {"seq": roster.seq, "digest": roster.head}

    def _new_key(self, _: Message) -> Message:
        if len(self._new_keys) >= MAX_NEW_KEYS:
            del self._new_keys[next(iter(self._new_keys))]
        key = self._vault.new_exchange_key()
        self._new_keys[key.kid] = key
        return {"kid": key.kid, "public": key.public}

    def _advertise(self, message: Message) -> Message:
        name = wire.text_of(message, "workload")
        members: dict[str, Any] = {"keys": [self._vault.signing_public]}
        if name:
            workload = self._roster.workloads.get(name)
            if workload is None:
                raise RefusedError("no such workload")
            members["keys"].append(self._vault.exchange_public(workload.kid))
        else:
            members["unlatch"] = {
                "origin": self._origin, "people": self._people, "genesis": self._roster.fingerprint,
                "log": str(self._vault.log_keys.log), "clock": str(self._vault.log_keys.clock),
            }  # fmt: skip
        payload = json.dumps(members, separators=(",", ":")).encode()
        signatures = 2 if message.get("twice") is True else 1
        return {"body": write_jws(payload, vault=self._vault, signatures=signatures).decode()}

    def _public(self, message: Message) -> Message:
        kid = wire.text_of(message, "kid")
        if kid not in self._roster.kids:
            raise RefusedError("no such key")
        return {"public": self._vault.exchange_public(kid)}

    def _challenge(self, _: Message) -> Message:
        return {"challenge": self._vault.sign_challenge(time=int(self._now()))}

    def _receive(self, message: Message) -> Message:
        workload = self._roster.workloads.get(wire.text_of(message, "workload"))
        kid, client = wire.text_of(message, "kid"), wire.text_of(message, "client")
        if workload is None or self._roster.kids.get(kid) != workload.name or not workload.allows(client):
            raise RefusedError("this workload does not answer such a request")
        point = _read_point(wire.bytes_of(message, "point")).thumbprint
        self._spent.check(point)
        claims = wire.bytes_of(message, "claims") if message.get("claims") is not None else None
        if (claims is not None) != (client == "native") or (
            claims is not None and _claimed_workload(claims) != workload.name
        ):
            raise RefusedError("claims of another workload, or none")
        identity = (
            self._identify(message, Asking(workload.name, kid, point, claims)) if claims is not None else None
        )
        nonce, now = self._random(NONCE_BYTES), int(self._now())
        name = "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in self._random(ID_LETTERS))
        native = client == "native"
        receipt = Receipt(
            id=name,
            workload=workload.name,
            kid=kid,
            point=point,
            nonce=base64url.encode(nonce),
            policy_revision=workload.revision,
            poll=f"{self._origin}/s/{workload.name}/wait/{base64url.encode(self._random(TOKEN_BYTES))}",
            card=f"{self._origin}/r/{name}",
            client=client,
            origin=self._origin,
            gate=self._vault.thumbprint,
            issued=now,
            expires=now + (workload.expires if native else workload.hold),
            claims=base64url.digest(claims) if claims is not None else None,
            code=derive_code(nonce=nonce, point=point, workload=workload.name) if native else None,
            identity=identity,
        )
        signing_input = receipt.signing_input(algorithm=ALGORITHM)
        return {"receipt": f"{signing_input.decode()}.{base64url.encode(self._vault.sign(signing_input))}"}

    def _identify(self, message: Message, asking: Asking) -> str | None:
        if message.get("proof") is None:
            return None
        return str(identify(wire.text_of(message, "proof"), asking, roster=self._roster, now=self._now()))

    def _checkpoint(self, message: Message) -> Message:
        size, root = wire.number_of(message, "size"), wire.bytes_of(message, "root")
        proof = _proof(message)
        verify_consistency(old=self._size, new=size, proof=proof, old_root=self._root, new_root=root)
        if size != self._size:
            head = {"size": size, "root": base64url.encode(root)}
            durable.replace(self._head_path, json.dumps(head).encode())
            self._size, self._root = size, root
        return {"note": self._vault.sign_checkpoint(size=size, root=root, time=int(self._now()))}

    def _judge(self, message: Message) -> Message:
        case = self._case(message)
        self._spent.check(case.receipt.point)
        verdict = self._weigh(case, message)
        if verdict.denied_by is not None:
            self._spent.spend(case.receipt.point, "denied")
        return {
            "approvals": [
                {
                    "operator": one.operator,
                    "key": one.fingerprint,
                    "touched": one.touched,
                    "verified": one.verified,
                }
                for one in verdict.approvals
            ],
            "denied_by": verdict.denied_by,
            "needed": verdict.needed,
            "opens": verdict.opens,
        }

    def _answer(self, message: Message) -> Message:
        case = self._case(message)
        point = _read_point(wire.bytes_of(message, "point"))
        if point.thumbprint != case.receipt.point:
            raise RefusedError("the point is not the one of the receipt")
        self._spent.check(point.thumbprint)
        verdict = self._weigh(case, message)
        if verdict.denied_by is not None:
            self._spent.spend(point.thumbprint, "denied")
            raise SpentError("denied")
        if not verdict.opens:
            raise RefusedError(f"{len(verdict.approvals)} of {verdict.needed} approvals")
        self._spent.spend(point.thumbprint, "answered")
        return {"answer": base64url.encode(self._vault.multiply(case.receipt.kid, point.jwk))}

    def _case(self, message: Message) -> Case:
        token = wire.bytes_of(message, "receipt")
        try:
            receipt = verify_receipt(token, keys=[self._vault.signing_public])
        except UntrustedGateError as error:
            raise RefusedError("the receipt is not ours") from error
        claims = wire.bytes_of(message, "claims") if message.get("claims") is not None else None
        return Case(
            receipt=receipt,
            token=token,
            claims=claims,
            entry=wire.bytes_of(message, "entry"),
            index=wire.number_of(message, "index"),
        )

    def _weigh(self, case: Case, message: Message) -> Verdict:
        statements = [
            SignedStatement(
                statement=wire.bytes_of(one, "statement"),
                signature=wire.text_of(one, "signature"),
                proof=_proof(one),
            )
            for one in wire.list_of(message, "statements", limit=MAX_STATEMENTS)
            if _is_object(one)
        ]
        return judge(case, statements, roster=self._roster, origin=self._origin, now=self._now())


def begin_chain(folder: Path, *, name: str, key: str, vault: Vault, now: float) -> Roster:
    """Write the genesis of a new gate."""
    genesis = Genesis(
        name=name,
        key=key,
        gate=vault.thumbprint,
        log=str(vault.log_keys.log),
        clock=str(vault.log_keys.clock),
    )
    data = write_enrolment(Link(seq=0, prev="", time=int(now)), genesis)
    roster = Roster.begin(data)
    journal = durable.Journal(folder / "chain")
    journal.append(link_line(data, None))
    journal.close()
    return roster


def link_line(enrolment: bytes, signature: str | None) -> bytes:
    """One enrolment as a line of the chain's file and as decider reads it."""
    return json.dumps(
        {"enrolment": base64url.encode(enrolment), "signature": signature}, separators=(",", ":")
    ).encode()


def _links(chain: durable.Journal) -> list[tuple[bytes, str | None]]:
    links = [strict_json.read_object(line) for line in chain.lines]
    return [(wire.bytes_of(link, "enrolment"), link.get("signature")) for link in links]


def _read_head(path: Path) -> tuple[int, bytes]:
    if not path.exists():
        return 0, EMPTY_ROOT
    head = strict_json.read_object(path.read_bytes())
    return wire.number_of(head, "size"), wire.bytes_of(head, "root")


def _read_point(data: bytes) -> Any:
    try:
        return read_point(strict_json.read_object(data))
    except (StatusError, ValueError) as error:
        raise RefusedError("not a point on a curve") from error


def _claimed_workload(data: bytes) -> str:
    try:
        return Claims.parse(data).workload
    except ValueError as error:
        raise RefusedError("claims that cannot be read") from error


def _proof(message: Message) -> tuple[bytes, ...]:
    steps = wire.list_of(message, "proof", limit=MAX_PROOF)
    return tuple(wire.bytes_of({"step": step}, "step") for step in steps)


def _is_object(value: object) -> bool:
    if not isinstance(value, dict):
        raise wire.WireError("a statement that is no object")
    return True


def _kind(error: RefusedError) -> str:
    if isinstance(error, SpentError):
        return error.outcome
    if isinstance(error, WrongCodeError):
        return "code"
    return "malformed" if isinstance(error, wire.WireError) else "refused"
