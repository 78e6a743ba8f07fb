"""A gate without processes: operators, a roster, an audit tree and its keys in memory. TEST ONLY keys, made at random."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.host_keys import HostKeyInMemory
from support.ssh_keys import SshKey
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.code import derive_code
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.bootstrap.identity.proof import Asking, Protection
from unlatch.gate import checkpoint as checkpoints
from unlatch.gate import enrolment as enrolments
from unlatch.gate.checkpoint import LogKeys, VerifierKey
from unlatch.gate.enrolment import AddHost, AddOperator, Change, Genesis, Link, SetWorkload, write_enrolment
from unlatch.gate.entry import enrol_entry, request_entry
from unlatch.gate.identity import challenge_message, write_challenge
from unlatch.gate.judge import Case, SignedStatement, Verdict, judge
from unlatch.gate.merkle import Tree, leaf_hash
from unlatch.gate.roster import Roster
from unlatch.gate.statement import NAMESPACE, Decision, Statement

NOW = 1_800_000_000
ORIGIN = "https://gate.example"
GATE = base64url.digest(b"the gate's signing key")


def digest(text: str) -> str:
    """Forty-three characters that stand for something."""
    return base64url.digest(text.encode())


class LogKey:
    """The two keys of an audit log."""

    def __init__(self, name: str = "unlatch-gate/test") -> None:
        self._log, self._clock = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.public = LogKeys(
            log=VerifierKey(name, checkpoints.LOG_TYPE, self._log.public_key().public_bytes_raw()),
            clock=VerifierKey(f"{name}/clock", checkpoints.CLOCK_TYPE, self._clock.public_key().public_bytes_raw()),
        )  # fmt: skip

    def note(self, *, size: int, root: bytes, time: int) -> str:
        """A checkpoint by both."""
        body = checkpoints.checkpoint_body(origin=self.public.log.name, size=size, root=root)
        clock = time.to_bytes(8, "big") + self._clock.sign(checkpoints.clock_message(body, time))
        lines = [
            checkpoints.signature_line(self.public.log, self._log.sign(body)),
            checkpoints.signature_line(self.public.clock, clock),
        ]
        return checkpoints.write_note(body, lines)

    def challenge(self, *, time: int, gate: str = GATE) -> str:
        """A challenge for hosts."""
        signature = self._clock.sign(challenge_message(gate=gate, time=time))
        return write_challenge(time=time, signature=signature)


class World:
    """A gate with an administrator `mara`, operators, and the workload `pay`."""

    def __init__(
        self, *, operators: tuple[str, ...] = (), quorum: int = 1, clients: enrolments.Clients = "both", kinds: dict[str, str] | None = None
    ) -> None:  # fmt: skip
        kinds = kinds or {}
        self.keys = {
            name: SshKey(kinds.get(name, "ssh-ed25519")) for name in ("mara", *operators, "stranger")
        }
        self.log = LogKey()
        self.tree = Tree()
        self.entries: list[bytes] = []
        genesis = Genesis(
            name="mara", key=self.keys["mara"].line, gate=GATE, log=str(self.log.public.log), clock=str(self.log.public.clock)
        )  # fmt: skip
        data = write_enrolment(Link(seq=0, prev="", time=NOW), genesis)
        self.chain: list[tuple[bytes, str | None]] = [(data, None)]
        self.roster = Roster.begin(data)
        self.record(enrol_entry(enrolment=data, signature=None))
        for name in operators:
            self.enrol(AddOperator(name=name, key=self.keys[name].line, admin=False))
        self.set_workload(approvers=("mara", *operators), quorum=quorum, clients=clients)

    def enrol(self, change: Change, *, by: str = "mara", **link: Any) -> Roster:
        """Sign an enrolment on the head of the chain, and take it."""
        place: dict[str, Any] = {"seq": self.roster.seq + 1, "prev": self.roster.head, "time": NOW} | link
        data = write_enrolment(Link(**place), change)
        signature = self.keys[by].sign(data, namespace=enrolments.NAMESPACE)
        self.roster = self.roster.enrol(data, signature)
        self.chain.append((data, signature))
        self.record(enrol_entry(enrolment=data, signature=signature))
        return self.roster

    def record(self, entry: bytes) -> int:
        """Add an audit entry; gives its position."""
        self.entries.append(entry)
        self.tree.append(leaf_hash(entry))
        return len(self.tree) - 1

    def set_workload(self, name: str = "pay", **facts: Any) -> Roster:
        """Add or change a workload."""
        known: dict[str, Any] = {
            "kid": digest(f"key of {name}"), "approvers": ("mara",), "quorum": 1, "clients": "both", "hold": 60,
            "expires": 600,
        }  # fmt: skip
        return self.enrol(SetWorkload(name=name, **(known | facts)))

    def add_host(self, name: str, host: HostKeyInMemory, *, protection: Protection = "tpm") -> Roster:
        """Enrol a host's key."""
        return self.enrol(AddHost(name=name, key=str(host.public), protection=protection))

    def request(
        self, *, name: str = "7QK2ABCD", client: str = "native", workload: str = "pay", **facts: Any
    ) -> Case:
        """A request whose entry is in the tree."""
        claims = facts.pop(
            "claims", Claims(workload=workload, host="h1", reason="start", bundle_digest=digest("bundle"))
        )
        data = claims.encode() if client == "native" and claims is not None else None
        host: HostKeyInMemory | None = facts.pop("host", None)
        proof, challenge = facts.pop("proof", None), facts.pop("challenge", None)
        policy = self.roster.workloads[workload]
        nonce, point = hashlib.sha256(name.encode()).digest(), digest(f"point {name}")
        members: dict[str, Any] = {
            "id": name, "workload": workload, "kid": policy.kid, "point": point, "nonce": base64url.encode(nonce),
            "policy_revision": policy.revision, "poll": f"{ORIGIN}/s/{workload}/wait/token", "card": f"{ORIGIN}/r/{name}",
            "client": client, "origin": ORIGIN, "gate": GATE, "issued": NOW, "expires": NOW + 600,
            "claims": base64url.digest(data) if data is not None else None,
            "code": derive_code(nonce=nonce, point=point, workload=workload) if client == "native" else None,
        } | facts  # fmt: skip
        if host is not None and data is not None:
            asking = Asking(workload, members["kid"], members["point"], data)
            proof = proof or host.prove(asking, challenge or self.log.challenge(time=NOW))
            if "identity" not in members:
                members["identity"] = str(self.roster.identity_of(host.public))
        receipt = Receipt(**members)
        token = f"token of {name}".encode()
        entry = request_entry(receipt, token, source="192.0.2.7", claims=data, proof=proof)
        return Case(receipt=receipt, token=token, claims=data, entry=entry, index=self.record(entry))

    def note(self, *, time: int = NOW, size: int | None = None) -> str:
        """A checkpoint of the tree."""
        size = len(self.tree) if size is None else size
        return self.log.note(size=size, root=self.tree.root(size), time=time)

    def statement(self, case: Case, *, decision: Decision = "approve", **changes: Any) -> Statement:
        """The right statement, but for some changes (`code` and `checkpoint` among them)."""
        claims = Claims.parse(case.claims) if case.claims is not None else None
        code = changes.pop("code", case.receipt.code)
        right = Statement.about(
            case.receipt, decision=decision, claims=claims, code=code if decision == "approve" else None,
            checkpoint=changes.pop("checkpoint", None) or self.note(),
        )  # fmt: skip
        return dataclasses.replace(right, **changes)

    def sign(
        self, statement: Statement, case: Case, *, by: str = "mara", namespace: str = NAMESPACE, **how: Any
    ) -> SignedStatement:
        """A signed statement with the proof for its checkpoint."""
        data = statement.encode()
        size = int(statement.checkpoint.split("\n")[1])
        proof = self.tree.inclusion(case.index, size) if case.index < size else []
        signature = self.keys[by].sign(data, namespace=namespace, **how)
        return SignedStatement(statement=data, signature=signature, proof=tuple(proof))

    def signed(self, case: Case, *, by: str = "mara", **changes: Any) -> SignedStatement:
        """Somebody's right statement."""
        return self.sign(self.statement(case, **changes), case, by=by)

    def judge(self, case: Case, *statements: SignedStatement, now: float = NOW + 1) -> Verdict:
        """What the gate makes of them."""
        return judge(case, statements, roster=self.roster, origin=ORIGIN, now=now)
