"""The security decision of the gate, as one pure function: may this point be answered?

Rule 1: nothing is taken from the decider's word: every fact comes from the receipt that keyholder signed itself, from
the chain of enrolments, or from a signature of an operator.
Rule 2: one statement that does not hold spoils the whole question; the asker of the question is broken.
Rule 3: one valid denial by an approver denies, whatever else was signed.
Rule 4: one human counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.receipt import Receipt
from unlatch.errors import RefusedError
from unlatch.gate.checkpoint import read_checkpoint
from unlatch.gate.entry import check_request_entry
from unlatch.gate.identity import check_in_force
from unlatch.gate.merkle import leaf_hash, verify_inclusion
from unlatch.gate.roster import Operator, Roster, Workload
from unlatch.gate.sshsig import Signature, verify_sshsig
from unlatch.gate.statement import NAMESPACE, Statement, check_statement


class JudgementError(RefusedError):
    """The question itself does not hold: expired, another policy, another gate, not an approver."""


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement, its SSH signature, and the proof that its checkpoint contains the request's entry."""

    statement: bytes
    signature: str
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A request as keyholder can check it: its own receipt, the claims, and the request's audit entry."""

    receipt: Receipt
    token: bytes
    claims: bytes | None
    entry: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Approval:
    """One operator's approval, and what his security key said about him (None for other keys)."""

    operator: str
    fingerprint: str
    touched: bool | None
    verified: bool | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the statements amount to."""

    approvals: tuple[Approval, ...]
    denied_by: str | None
    needed: int

    @property
    def opens(self) -> bool:
        """Whether the point may be answered."""
        return self.denied_by is None and len(self.approvals) >= self.needed


def judge(
    case: Case, statements: Sequence[SignedStatement], *, roster: Roster, origin: str, now: float
) -> Verdict:
    """Weigh the statements on one request.

    Args:
        case: the receipt's own signature was verified by the caller.
        origin: this gate's public address.
        now: Unix seconds.

    Raises:
        RefusedError: JudgementError, SignatureError, EnrolmentError, StatementError, CheckpointError, ProofError or
            EntryError: one of the parts does not hold.
    """
    workload = check_case(case, roster=roster, origin=origin, now=now)
    claims = read_claims(case)
    approvals: dict[str, Approval] = {}
    denied_by: str | None = None
    for signed in statements:
        operator, signature, statement = check_signed(
            signed, case, claims=claims, roster=roster, workload=workload, now=now
        )
        if statement.decision == "deny":
            denied_by = denied_by or operator.name
        else:
            approvals[operator.name] = Approval(
                operator=operator.name,
                fingerprint=signature.key.fingerprint,
                touched=signature.touched,
                verified=signature.verified,
            )
    return Verdict(approvals=tuple(approvals.values()), denied_by=denied_by, needed=workload.quorum)


def check_case(case: Case, *, roster: Roster, origin: str, now: float) -> Workload:
    """Refuse a request that this gate no longer answers.

    Raises:
        RefusedError: expired, made under another policy, for another key, client or gate, its entry differs, or its
            host's key counts no more.
    """
    receipt = case.receipt
    if receipt.gate != roster.genesis.gate or receipt.origin != origin:
        raise JudgementError("the receipt is another gate's")
    if receipt.expires <= now:
        raise JudgementError("the request is expired")
    workload = roster.workloads.get(receipt.workload)
    if workload is None or roster.kids.get(receipt.kid) != receipt.workload:
        raise JudgementError("the key does not belong to this workload")
    if workload.revision != receipt.policy_revision:
        raise JudgementError("the policy of this workload changed since the request")
    if not workload.allows(receipt.client):
        raise JudgementError(f"{receipt.client} clients may not ask for this workload")
    check_request_entry(case.entry, receipt=receipt, token=case.token)
    check_in_force(receipt.identity, roster=roster)
    return workload


def read_claims(case: Case) -> Claims | None:
    """The claims of a request, checked against the receipt.

    Raises:
        JudgementError: they are not the ones that the receipt promises.
    """
    digest = base64url.digest(case.claims) if case.claims is not None else None
    if digest != case.receipt.claims:
        raise JudgementError("the claims are not the ones of the receipt")
    try:
        return Claims.parse(case.claims) if case.claims is not None else None
    except ValueError as error:
        raise JudgementError("the claims cannot be read") from error


def check_signed(
    signed: SignedStatement,
    case: Case,
    *,
    claims: Claims | None,
    roster: Roster,
    workload: Workload,
    now: float,
) -> tuple[Operator, Signature, Statement]:
    """Verify one statement: signature, operator, every member, and the checkpoint under it.

    Raises:
        RefusedError: one of them does not hold.
    """
    signature = verify_sshsig(signed.signature, signed.statement, namespace=NAMESPACE)
    operator = roster.operator_of(signature)
    if operator.name not in workload.approvers:
        raise JudgementError(f"{operator.name} is no approver of {workload.name}")
    statement = Statement.parse(signed.statement)
    check_statement(statement, case.receipt, claims=claims)
    checkpoint = read_checkpoint(statement.checkpoint, keys=roster.log_keys)
    checkpoint.check_age(now)
    verify_inclusion(
        leaf=leaf_hash(case.entry),
        index=case.index,
        size=checkpoint.size,
        proof=signed.proof,
        root=checkpoint.root,
    )
    return operator, signature, statement
