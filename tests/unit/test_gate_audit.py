"""The audit log, verified with public keys alone: what was changed, left out, invented or forked is found."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import rfc8785
from support.gate_world import NOW, World, digest

from unlatch.gate.audit import AuditError, check_extends, verify_log
from unlatch.gate.enrolment import AddOperator, Suspend
from unlatch.gate.entry import change_entry, decision_entry
from unlatch.gate.judge import Case
from unlatch.gate.merkle import Tree, leaf_hash


class Log(World):
    """A gate's log, written as decider writes it."""

    def decide(self, case: Case, *, by: str = "mara", counts: bool = True, at: int = NOW + 1, signed: Any = None, **changes: Any) -> None:  # fmt: skip
        signed = signed or self.signed(case, by=by, **changes)
        self.record(
            decision_entry(
                statement=signed.statement, signature=signed.signature, operator=by, request=case.receipt.id, time=at,
                counts=counts,
            )
        )  # fmt: skip

    def change(self, case: Case, before: str, after: str, *, at: int = NOW + 1) -> None:
        self.record(change_entry(request=case.receipt.id, before=before, after=after, time=at))

    def export(self, *, note: str | None = None, entries: list[bytes] | None = None) -> list[bytes]:
        head = {"unlatch-audit": 1, "fingerprint": self.roster.fingerprint, "checkpoint": note or self.note()}
        return [
            json.dumps(head).encode() + b"\n",
            *(one + b"\n" for one in (self.entries if entries is None else entries)),
        ]

    def resigned(self, entries: list[bytes]) -> list[bytes]:
        """An export whose checkpoint fits other entries: what a gate that rewrote its log would give."""
        tree = Tree(map(leaf_hash, entries))
        return self.export(note=self.log.note(size=len(tree), root=tree.root(), time=NOW), entries=entries)

    def verify(self) -> Any:
        return verify_log(self.export(), fingerprint=self.roster.fingerprint)


@pytest.fixture
def log() -> Log:
    """One request approved by two of three and answered, one denied, one with a wrong code, one expired."""
    made = Log(operators=("jo", "kim"), quorum=2)
    opened, denied, expired = (made.request(name=name) for name in ("AAAAAAAA", "BBBBBBBB", "CCCCCCCC"))
    made.decide(opened, by="mara", counts=False, code="BBBB-BBBB")
    made.decide(opened, by="mara")
    made.decide(opened, by="jo")
    made.change(opened, "pending", "approved")
    made.change(opened, "approved", "delivered")
    made.decide(denied, by="kim", decision="deny")
    made.change(denied, "pending", "denied")
    made.change(expired, "pending", "expired")
    return made


def refusal(log: Log, lines: list[bytes] | None = None) -> str:
    with pytest.raises(AuditError) as caught:
        verify_log(log.export() if lines is None else lines, fingerprint=log.roster.fingerprint)
    return str(caught.value)


def test_honest_log_holds(log: Log) -> None:
    report = log.verify()

    assert (report.enrolments, report.requests, report.approvals, report.denials, report.answered) == (
        4,
        3,
        2,
        1,
        1,
    )


def test_another_genesis_is_refused(log: Log) -> None:
    with pytest.raises(AuditError, match="another genesis"):
        verify_log(log.export(), fingerprint=digest("another"))


def test_every_entry_that_was_left_out_is_missed(log: Log) -> None:
    for position in range(len(log.entries)):
        refusal(log, log.export(entries=log.entries[:position] + log.entries[position + 1 :]))


def test_every_entry_that_was_changed_is_found(log: Log) -> None:
    for position, entry in enumerate(log.entries):
        members = json.loads(entry) | {"more": 1}
        changed = [*log.entries[:position], rfc8785.dumps(members), *log.entries[position + 1 :]]
        refusal(log, log.export(entries=changed))


def test_checkpoint_by_another_log_is_refused(log: Log) -> None:
    other = Log()
    note = other.log.note(size=len(log.tree), root=log.tree.root(), time=NOW)
    assert "checkpoint" in refusal(log, log.export(note=note))


@pytest.mark.parametrize(
    "lines",
    [[], [b""], [b"{}"], [b'{"unlatch-audit":true,"checkpoint":"x"}'], [b'{"unlatch-audit":1}'], [b"\xff"]],
)
def test_file_that_is_no_export_is_refused(log: Log, lines: list[bytes]) -> None:
    refusal(log, lines)


def test_log_without_entries_is_refused(log: Log) -> None:
    assert "empty" in refusal(log, log.export(entries=[]))


@pytest.mark.parametrize("kind", ["decision", "wrong-code", "request", "enrol", "change"])
def test_log_that_was_rewritten_and_signed_anew_is_found(log: Log, kind: str) -> None:
    """The gate's own keys do not help it: entries hold each other, and operators' keys are not the gate's."""
    for position, entry in enumerate(log.entries):
        if json.loads(entry)["kind"] == kind and position < len(log.entries) - 1:
            refusal(log, log.resigned(log.entries[:position] + log.entries[position + 1 :]))
            return


def test_approval_without_its_quorum_is_found() -> None:
    log = Log(operators=("jo",), quorum=2)
    case = log.request()
    log.decide(case, by="jo")
    log.decide(case, by="jo")
    log.change(case, "pending", "approved")
    assert "approved by 1, the quorum is 2" in refusal(log)


def test_lapsed_approval_does_not_count_for_the_quorum() -> None:
    log = Log(operators=("jo",), quorum=2)
    case = log.request(expires=NOW + 7200)
    log.decide(case, by="mara")
    log.decide(case, by="jo", checkpoint=log.note(time=NOW + 1000), at=NOW + 1000)
    log.change(case, "pending", "approved", at=NOW + 1000)
    assert "approved by 1" in refusal(log)


def test_answer_without_approval_is_found(log: Log) -> None:
    case = log.request(name="DDDDDDDD")
    log.change(case, "pending", "delivered")
    assert "cannot become" in refusal(log)


def test_change_from_another_state_is_found(log: Log) -> None:
    case = log.request(name="DDDDDDDD")
    log.change(case, "approved", "delivered")
    assert "the request is pending" in refusal(log)


@pytest.mark.parametrize(
    "changes",
    [{"code": "BBBB-BBBB"}, {"code": None}, {"bundle_digest": None}, {"config_digest": digest("x")}, {"nonce": digest("x")},
     {"point": digest("x")}, {"gate": digest("x")}, {"policy_revision": digest("x")}, {"not_after": NOW}, {"kid": digest("x")}],
)  # fmt: skip
def test_decision_about_something_else_is_found(changes: dict[str, Any]) -> None:
    log = Log()
    log.decide(log.request(), **changes)
    refusal(log)


def test_decision_by_a_stranger_is_found() -> None:
    log = Log()
    log.decide(log.request(), by="stranger")
    assert "no operator's key" in refusal(log)


def test_decision_in_anothers_name_is_found() -> None:
    log = Log(operators=("jo",))
    case = log.request()
    log.decide(case, by="jo", signed=log.signed(case, by="mara"))
    assert "gate or operator" in refusal(log)


def test_decision_without_touch_is_found() -> None:
    log = Log(kinds={"mara": "sk-ssh-ed25519@openssh.com"})
    case = log.request()
    log.decide(case, signed=log.sign(log.statement(case), case, flags=0))
    assert "without touch" in refusal(log)


def test_decision_by_an_operator_who_may_not_is_found() -> None:
    log = Log(operators=("jo",))
    log.set_workload(approvers=("mara",))
    log.decide(log.request(), by="jo")
    assert "no approver" in refusal(log)


def test_decision_after_the_suspension_is_found() -> None:
    log = Log(operators=("jo",))
    case = log.request()
    log.enrol(Suspend(name="jo"))
    log.decide(case, by="jo")
    assert "suspended" in refusal(log)


def test_decision_from_before_the_suspension_holds() -> None:
    log = Log(operators=("jo",))
    case = log.request()
    log.decide(case, by="jo")
    log.enrol(Suspend(name="jo"))
    assert log.verify().approvals == 1


@pytest.mark.parametrize("at", [NOW + 600, NOW + 10_000])
def test_decision_after_the_end_is_found(at: int) -> None:
    log = Log()
    case = log.request()
    log.decide(case, checkpoint=log.note(time=at), at=at)
    assert "after the request's end" in refusal(log)


def test_decision_on_an_old_checkpoint_is_found() -> None:
    log = Log()
    case = log.request(expires=NOW + 7200)
    log.decide(case, at=NOW + 901)
    assert "901 s old" in refusal(log)


def test_decision_on_a_checkpoint_of_a_fork_is_found() -> None:
    log = Log()
    case = log.request()
    fork = Tree([*(leaf_hash(one) for one in log.entries[:-1]), leaf_hash(b"another")])
    note = log.log.note(size=len(fork), root=fork.root(), time=NOW)
    statement = dataclasses.replace(log.statement(case), checkpoint=note)
    log.decide(case, signed=log.sign(statement, case))
    assert "another log" in refusal(log)


def test_enrolment_by_a_stranger_is_found() -> None:
    log, other = Log(), Log()
    other.enrol(AddOperator(name="eve", key=other.keys["stranger"].line, admin=True))
    log.record(other.entries[-1])
    refusal(log)


def test_request_under_another_policy_or_for_another_key_is_found() -> None:
    for changes in ({"policy_revision": digest("x")}, {"kid": digest("x")}):
        log = Log()
        log.request(**changes)
        refusal(log)


def test_request_twice_is_found() -> None:
    log = Log()
    log.request()
    log.request()
    assert "twice" in refusal(log)


def test_log_that_extends_what_was_seen_is_taken(log: Log) -> None:
    seen = (len(log.tree), log.tree.root())
    log.request(name="DDDDDDDD")
    check_extends(log.verify(), size=seen[0], root=seen[1])


def test_fork_and_shorter_log_are_found(log: Log) -> None:
    report = log.verify()
    with pytest.raises(AuditError, match="forked"):
        check_extends(report, size=3, root=bytes(32))
    with pytest.raises(AuditError, match="shorter"):
        check_extends(report, size=len(log.tree) + 1, root=log.tree.root())
