"""Keyholder without a decider: a test asks its socket as a broken or taken-over decider would."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.host_keys import HostKeyInMemory
from support.ssh_keys import SshKey
from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.bootstrap.identity.proof import Asking
from unlatch.gate import enrolment as enrolments
from unlatch.gate import wire
from unlatch.gate.enrolment import AddOperator, Change, Link, SetWorkload, write_enrolment
from unlatch.gate.entry import request_entry
from unlatch.gate.keyholder import begin_chain
from unlatch.gate.keyholder_client import start_keyholder
from unlatch.gate.merkle import Tree, leaf_hash
from unlatch.gate.roster import Roster
from unlatch.gate.statement import NAMESPACE, Statement
from unlatch.gate.vault import Vault
from unlatch.memguard._native import exchange_answer, exchange_key_generate

ORIGIN, PEOPLE = "http://localhost:7070", "http://localhost:7071"

Ask = Callable[..., dict[str, Any]]


class KeyholderProcess:
    """`keyholder_main` on a socket of ours. `ask` gives the whole answer, refusals too."""

    def __init__(self, folder: Path) -> None:
        self._process, self._channel = start_keyholder(folder, origin=ORIGIN, people=PEOPLE)
        self._stream = self._channel.makefile("rb")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._process

    @property
    def channel(self) -> socket.socket:
        return self._channel

    def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        """One question, one answer."""
        return self.ask_raw(wire.frame({"do": question, **fields}))

    def ask_raw(self, data: bytes) -> dict[str, Any]:
        """Any bytes as a question. EOFError where keyholder ended instead."""
        self._channel.sendall(data)
        head = self._stream.read(wire.LENGTH_BYTES)
        if not head:
            raise EOFError("keyholder ended")
        return wire.read_frame(self._stream.read(wire.frame_length(head)))

    def kill(self) -> None:
        """End it without a warning."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._channel.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclasses.dataclass
class Case:
    """A request that keyholder made a receipt for, with its entry in the test's own log."""

    receipt: Receipt
    token: bytes
    claims: bytes | None
    entry: bytes
    index: int
    point: bytes

    def fields(self) -> dict[str, Any]:
        """How a question names it."""
        return {
            "receipt": base64url.encode(self.token), "entry": base64url.encode(self.entry), "index": self.index,
            "claims": base64url.encode(self.claims) if self.claims is not None else None,
        }  # fmt: skip


class FakeDecider:
    """Does what decider does, over any `ask`; each step can be done wrong.

    Args:
        operators: who is enrolled beside the administrator `mara`; all may approve `pay`.
        kinds: kinds of SSH keys by name, ``ssh-ed25519`` by default.
    """

    def __init__(
        self, folder: Path, *, operators: Sequence[str] = (), quorum: int = 1, kinds: dict[str, str] | None = None
    ) -> None:  # fmt: skip
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.keys = {
            name: SshKey((kinds or {}).get(name, "ssh-ed25519")) for name in ("mara", *operators, "stranger")
        }
        vault = Vault.create(folder / "keyholder")
        self.vault_public = vault.signing_public
        self.roster: Roster = begin_chain(
            folder / "keyholder", name="mara", key=self.keys["mara"].line, vault=vault, now=time.time()
        )
        self.tree = Tree()
        self.signed_size = 0
        self._operators, self._quorum = tuple(operators), quorum
        self.ask: Ask = _nobody

    def found(self, ask: Ask, **policy: Any) -> None:
        """Enrol the operators and the workload `pay` through keyholder."""
        self.ask = ask
        for name in self._operators:
            self.enrol(AddOperator(name=name, key=self.keys[name].line, admin=False))
        self.set_workload("pay", **policy)

    def set_workload(self, name: str, **policy: Any) -> None:
        facts: dict[str, Any] = {
            "kid": self.must("new-key")["kid"], "approvers": ("mara", *self._operators), "quorum": self._quorum,
            "clients": "both", "hold": 60, "expires": 600,
        } | policy  # fmt: skip
        self.enrol(SetWorkload(name=name, **facts))

    def must(self, question: str, **fields: Any) -> dict[str, Any]:
        """An answer that is no refusal."""
        return wire.read_answer(self.ask(question, **fields))

    def enrol(self, change: Change, *, by: str = "mara") -> None:
        data = write_enrolment(
            Link(seq=self.roster.seq + 1, prev=self.roster.head, time=int(time.time())), change
        )
        signature = self.keys[by].sign(data, namespace=enrolments.NAMESPACE)
        self.must("enrol", enrolment=base64url.encode(data), signature=signature)
        self.roster = self.roster.enrol(data, signature)

    def receive(
        self, *, client: str = "native", workload: str = "pay", point: bytes | None = None,
        host: HostKeyInMemory | None = None, proof: str | None = None,
    ) -> Case:  # fmt: skip
        """Ask for a receipt and log the request; `host` signs it, unless there is a `proof` that says otherwise."""
        kid = self.roster.workloads[workload].kid
        point = point or exchange_key_generate("P-521")[1]
        claims = (
            Claims(workload=workload, host="h1", bundle_digest=base64url.digest(b"b")).encode()
            if client == "native"
            else None
        )
        jwk = jose.read_json(point)
        assert isinstance(jwk, dict)
        if host is not None and proof is None:
            asking = Asking(workload, kid, jose.thumbprint(jwk), claims or b"{}")
            proof = host.prove(asking, str(self.must("challenge")["challenge"]))
        answer = self.must(
            "receive", workload=workload, kid=kid, client=client, point=base64url.encode(point),
            claims=base64url.encode(claims) if claims is not None else None, proof=proof,
        )  # fmt: skip
        token = str(answer["receipt"]).encode()
        receipt = Receipt.parse(base64url.decode(token.split(b".")[1].decode()))
        return self.log(Case(receipt, token, claims, b"", 0, point), proof=proof)

    def log(self, case: Case, *, proof: str | None = None) -> Case:
        """Put the request's entry into the tree."""
        entry = request_entry(case.receipt, case.token, source="192.0.2.7", claims=case.claims, proof=proof)
        self.tree.append(leaf_hash(entry))
        return dataclasses.replace(case, entry=entry, index=len(self.tree) - 1)

    def note(self) -> str:
        """A checkpoint of the whole tree, signed by keyholder."""
        size = len(self.tree)
        proof = self.tree.consistency(self.signed_size, size)
        answer = self.must(
            "checkpoint", size=size, root=base64url.encode(self.tree.root()), proof=[base64url.encode(step) for step in proof]
        )  # fmt: skip
        self.signed_size = size
        return str(answer["note"])

    def sign(self, case: Case, *, by: str = "mara", decision: Any = "approve", note: str | None = None, how: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:  # fmt: skip
        """A signed statement as a question carries it; `changes` make it say something else."""
        note = note or self.note()
        claims = Claims.parse(case.claims) if case.claims is not None else None
        code = changes.pop("code", case.receipt.code) if decision == "approve" else None
        right = Statement.about(case.receipt, decision=decision, claims=claims, code=code, checkpoint=note)
        data = dataclasses.replace(right, **changes).encode()
        size = int(note.split("\n")[1])
        proof = self.tree.inclusion(case.index, size) if case.index < size else []
        signature = self.keys[by].sign(data, **({"namespace": NAMESPACE} | (how or {})))
        return {
            "statement": base64url.encode(data), "signature": signature,
            "proof": [base64url.encode(step) for step in proof],
        }  # fmt: skip

    def answer(self, case: Case, *statements: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """Ask for the answer to a request's point."""
        fields = (
            case.fields() | {"point": base64url.encode(case.point), "statements": list(statements)} | changes
        )
        return self.ask("answer", **fields)

    def judge(self, case: Case, *statements: dict[str, Any]) -> dict[str, Any]:
        """Ask what the statements amount to."""
        return self.ask("judge", **case.fields(), statements=list(statements))

    def is_right(self, case: Case, answer: dict[str, Any]) -> bool:
        """Whether an answer is this point multiplied by the workload's key, opened here from its file for comparison."""
        _, private = Vault(self.folder / "keyholder")._open(
            "exchange", self.folder / "keyholder" / "keys" / f"{case.receipt.kid}.jwe"
        )
        given = base64url.decode(answer["ok"]["answer"])
        return jose.read_json(given) == jose.read_json(exchange_answer(private, case.point))


def _nobody(question: str, **fields: Any) -> dict[str, Any]:
    raise LookupError("no keyholder is asked yet")


def spent_points(folder: Path) -> list[str]:
    """The lines of keyholder's journal of spent points."""
    return (folder / "keyholder" / "spent").read_text().splitlines()
