"""Verifying a whole audit log with public keys alone: no gate, no database, no trust in who exported it.

What holds afterwards: every entry is in the tree that the checkpoint signs; every enrolment was signed by an administrator
in force, back to the pinned genesis; every decision was signed by an approver in force, in time, with the code that
belongs to the request, on a checkpoint that is a prefix of this log, contains the request and was fresh; nothing was
approved without its quorum, or answered without approval; every host that a request names signed it, with a fresh challenge
of this gate, by a key that was enrolled then. Times are those of decider and of the log's clock.

Source of the export's format: docs/protocol.md section 11.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from unlatch.bootstrap.approval import base64url, strict_json
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.approval.code import code_digest, derive_code
from unlatch.bootstrap.identity.proof import Asking
from unlatch.errors import RefusedError
from unlatch.gate.checkpoint import MAX_AGE_SECONDS, Checkpoint, read_checkpoint
from unlatch.gate.entry import read_entry
from unlatch.gate.identity import check_in_force, identify
from unlatch.gate.merkle import Tree, leaf_hash
from unlatch.gate.roster import Roster
from unlatch.gate.sshsig import verify_sshsig
from unlatch.gate.state import State, check_change
from unlatch.gate.statement import NAMESPACE, Statement

_SAME = ("request", "point", "kid", "workload", "policy_revision", "nonce", "not_after", "identity")


class AuditError(RefusedError):
    """The log does not hold. `position` is the entry's, None for the whole."""

    def __init__(self, message: str, *, position: int | None = None) -> None:
        super().__init__(message if position is None else f"entry {position}: {message}")
        self.position = position


@dataclass(frozen=True, slots=True)
class Report:
    """What was verified, in counts."""

    checkpoint: Checkpoint
    note: str
    fingerprint: str
    enrolments: int
    requests: int
    approvals: int
    denials: int
    answered: int
    tree: Tree


@dataclass(slots=True)
class _Request:
    position: int
    entry: dict[str, Any]
    claims: Claims | None
    state: State = State.PENDING
    approved_by: dict[str, int] = field(default_factory=dict)
    """Approvers, and the time of the checkpoint under each one's last approval."""


class _Reader:
    """Folds the entries one by one."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.roster: Roster | None = None
        self.requests: dict[str, _Request] = {}
        self.enrolments = self.approvals = self.denials = self.answered = 0

    def read(self, data: bytes) -> None:
        position = len(self.tree)
        try:
            entry = read_entry(data)
            kind = entry["kind"]
            if kind == "enrol":
                self._enrol(entry)
            elif kind == "request":
                self._request(entry, position)
            elif kind in ("decision", "wrong-code"):
                self._decision(entry, counts=kind == "decision")
            else:
                self._change(entry)
        except (RefusedError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise AuditError(str(error) or "malformed", position=position) from error
        self.tree.append(leaf_hash(data))

    def _enrol(self, entry: dict[str, Any]) -> None:
        data = entry["enrolment"].encode()
        self.roster = (
            Roster.begin(data) if self.roster is None else self.roster.enrol(data, entry["signature"])
        )
        self.enrolments += 1

    def _request(self, entry: dict[str, Any], position: int) -> None:
        roster = self._rostered()
        workload = roster.workloads[entry["workload"]]
        if entry["policy_revision"] != workload.revision or entry["request"] in self.requests:
            raise AuditError("a request under another policy, or twice")
        if roster.kids[entry["kid"]] != workload.name or not workload.allows(entry["client"]):
            raise AuditError("a request for another workload's key, or by a client that may not ask")
        claims = Claims.parse(entry["claims"].encode()) if entry["claims"] is not None else None
        _check_identity(entry, roster)
        self.requests[entry["request"]] = _Request(position=position, entry=entry, claims=claims)

    def _decision(self, entry: dict[str, Any], *, counts: bool) -> None:
        roster, request = self._rostered(), self.requests[entry["request"]]
        data = entry["statement"].encode()
        operator = roster.operator_of(verify_sshsig(entry["signature"], data, namespace=NAMESPACE))
        statement = Statement.parse(data)
        workload = roster.workloads[statement.workload]
        differing = [name for name in _SAME if getattr(statement, name) != request.entry.get(name)]
        if differing or statement.gate != roster.genesis.gate or operator.name != entry["operator"]:
            raise AuditError(
                f"a statement that is not about its request ({', '.join(differing) or 'gate or operator'})"
            )
        if operator.name not in workload.approvers or workload.revision != statement.policy_revision:
            raise AuditError(f"{operator.name} was no approver of {workload.name}")
        check_in_force(statement.identity, roster=roster)
        checkpoint = read_checkpoint(statement.checkpoint, keys=roster.log_keys)
        if (
            not request.position < checkpoint.size <= len(self.tree)
            or self.tree.root(checkpoint.size) != checkpoint.root
        ):
            raise AuditError("a statement on a checkpoint of another log, or without its request")
        if counts:
            self._count(request, statement, operator.name, checkpoint, at=entry["time"])

    def _count(
        self, request: _Request, statement: Statement, operator: str, checkpoint: Checkpoint, *, at: int
    ) -> None:
        checkpoint.check_age(at)
        if at >= statement.not_after:
            raise AuditError("a decision after the request's end")
        _check_digests(statement, request)
        if statement.decision == "approve":
            request.approved_by[operator] = checkpoint.time
            self.approvals += 1
        else:
            self.denials += 1

    def _change(self, entry: dict[str, Any]) -> None:
        request = self.requests[entry["request"]]
        before, after = State(entry["before"]), State(entry["after"])
        if before != request.state:
            raise AuditError(f"a change from {before}, but the request is {request.state}")
        check_change(before, after)
        workload = self._rostered().workloads[request.entry["workload"]]
        fresh = [time for time in request.approved_by.values() if entry["time"] - time <= MAX_AGE_SECONDS]
        if after == State.APPROVED and len(fresh) < workload.quorum:
            raise AuditError(f"approved by {len(fresh)}, the quorum is {workload.quorum}")
        request.state = after
        self.answered += after == State.DELIVERED

    def _rostered(self) -> Roster:
        if self.roster is None:
            raise AuditError("the log does not begin with a genesis")
        return self.roster


def _check_identity(entry: dict[str, Any], roster: Roster) -> None:
    """Refuse a request that names a host which did not sign it."""
    named, proof = entry.get("identity"), entry.get("proof")
    if named is None and proof is None:
        return
    asking = Asking(entry["workload"], entry["kid"], entry["point"], entry["claims"].encode())
    if str(identify(proof or "", asking, roster=roster, now=entry["time"])) != named:
        raise AuditError("a request under another host's name")


def _check_digests(statement: Statement, request: _Request) -> None:
    """Refuse a statement about other claims, or whose typed code was not the code of the request."""
    entry, claims = request.entry, request.claims
    code = None
    if statement.decision == "approve" and entry["client"] == "native":
        nonce = base64url.decode(entry["nonce"])
        code = derive_code(nonce=nonce, point=entry["point"], workload=entry["workload"])
    wanted = (
        claims.config_digest if claims else None,
        claims.bundle_digest if claims else None,
        code_digest(code, request=entry["request"]) if code else None,
    )
    if (statement.config_digest, statement.bundle_digest, statement.code_digest) != wanted:
        raise AuditError("a statement about other claims, or with another code")


def verify_log(lines: Iterable[bytes], *, fingerprint: str) -> Report:
    """Verify an export.

    Args:
        lines: the head with the checkpoint, then one entry each.
        fingerprint: the genesis, as `gate init` printed it.

    Raises:
        AuditError: says which entry does not hold, and why.
    """
    iterator = iter(lines)
    note = _read_head(next(iterator, b""))
    reader = _Reader()
    for line in iterator:
        reader.read(line.rstrip(b"\n"))
        if len(reader.tree) == 1 and reader.roster is not None and reader.roster.fingerprint != fingerprint:
            raise AuditError(f"the log begins with another genesis: {reader.roster.fingerprint}")
    if reader.roster is None:
        raise AuditError("the log is empty")
    try:
        checkpoint = read_checkpoint(note, keys=reader.roster.log_keys)
    except RefusedError as error:
        raise AuditError(str(error)) from error
    if checkpoint.size != len(reader.tree) or checkpoint.root != reader.tree.root():
        raise AuditError(
            f"the entries are not the ones that the checkpoint signs ({len(reader.tree)} of {checkpoint.size})"
        )
    return Report(
        checkpoint=checkpoint, note=note, fingerprint=fingerprint, enrolments=reader.enrolments,
        requests=len(reader.requests), approvals=reader.approvals, denials=reader.denials, answered=reader.answered,
        tree=reader.tree,
    )  # fmt: skip


def check_extends(report: Report, *, size: int, root: bytes) -> None:
    """Refuse a log that does not extend one that was seen before.

    Raises:
        AuditError: it is shorter, or a fork.
    """
    if size > report.checkpoint.size:
        raise AuditError(f"the log became shorter: {report.checkpoint.size} entries, {size} were seen")
    if report.tree.root(size) != root:
        raise AuditError(f"the log was forked: its first {size} entries are not the ones that were seen")


def _read_head(line: bytes) -> str:
    try:
        head = strict_json.read_object(line)
        strict_json.check_version(head.get("unlatch-audit"), 1)
    except ValueError as error:
        raise AuditError("not an export of an audit log") from error
    note = head.get("checkpoint")
    if not isinstance(note, str):
        raise AuditError("an export of an audit log without a checkpoint")
    return note
