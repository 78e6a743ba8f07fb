"""The gate's decision: every way in which a decider, an operator or a thief could be wrong opens nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.gate_world import NOW, World, digest
from support.ssh_keys import SshKey

from unlatch.bootstrap.approval.claims import Claims
from unlatch.errors import RefusedError
from unlatch.gate.checkpoint import MAX_AGE_SECONDS, CheckpointError
from unlatch.gate.enrolment import AddOperator, EnrolmentError, Suspend
from unlatch.gate.entry import EntryError, request_entry
from unlatch.gate.judge import JudgementError
from unlatch.gate.merkle import ProofError
from unlatch.gate.sshsig import SignatureError
from unlatch.gate.statement import StatementError, WrongCodeError


@pytest.fixture
def world() -> World:
    return World(operators=("jo",))


def test_one_right_approval_opens_where_one_is_needed(world: World) -> None:
    case = world.request()

    verdict = world.judge(case, world.signed(case))

    assert verdict.opens
    assert [one.operator for one in verdict.approvals] == ["mara"]


def test_nothing_opens_without_a_statement(world: World) -> None:
    assert not world.judge(world.request()).opens


def test_stock_request_opens_without_a_code(world: World) -> None:
    case = world.request(client="stock")

    assert world.judge(case, world.signed(case)).opens


def test_one_human_counts_once() -> None:
    world = World(operators=("jo",), quorum=2)
    world.keys["second"] = SshKey()
    world.enrol(AddOperator(name="mara", key=world.keys["second"].line, admin=False))
    case = world.request()

    verdict = world.judge(case, world.signed(case), world.signed(case, by="second"), world.signed(case))

    assert (len(verdict.approvals), verdict.opens) == (1, False)


def test_quorum_of_different_humans_opens() -> None:
    world = World(operators=("jo", "kim"), quorum=2)
    case = world.request()

    assert not world.judge(case, world.signed(case, by="jo")).opens
    assert world.judge(case, world.signed(case, by="jo"), world.signed(case, by="kim")).opens


@pytest.mark.parametrize("deny_first", [True, False])
def test_one_denial_outweighs_a_full_quorum(world: World, deny_first: bool) -> None:
    case = world.request()
    statements = [world.signed(case), world.signed(case, by="jo", decision="deny")]

    verdict = world.judge(case, *(reversed(statements) if deny_first else statements))

    assert (verdict.denied_by, verdict.opens) == ("jo", False)


def test_operator_who_denies_and_approves_has_denied(world: World) -> None:
    case = world.request()

    verdict = world.judge(case, world.signed(case, decision="deny"), world.signed(case))

    assert not verdict.opens


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("request", "OTHERONE"), ("point", digest("another point")), ("kid", digest("another key")),
        ("workload", "other"), ("gate", digest("another gate")), ("origin", "https://other.example"),
        ("policy_revision", digest("another policy")), ("nonce", digest("another nonce")), ("not_after", NOW + 9999),
        ("config_digest", digest("another configuration")), ("bundle_digest", digest("another bundle")),
        ("bundle_digest", None),
    ],
)  # fmt: skip
def test_statement_about_something_else_is_refused(world: World, member: str, value: Any) -> None:
    case = world.request()
    with pytest.raises(StatementError, match=member):
        world.judge(case, world.signed(case, **{member: value}))


def test_wrong_code_is_refused_as_such(world: World) -> None:
    case = world.request()
    with pytest.raises(WrongCodeError):
        world.judge(case, world.signed(case, code="BBBB-BBBB"))


def test_missing_code_is_refused(world: World) -> None:
    case = world.request()
    with pytest.raises(StatementError):
        world.judge(case, world.signed(case, code=None))


def test_wrong_code_hides_no_other_difference(world: World) -> None:
    case = world.request()
    with pytest.raises(StatementError, match="another request") as caught:
        world.judge(case, world.signed(case, code="BBBB-BBBB", nonce=digest("x")))
    assert not isinstance(caught.value, WrongCodeError)


def test_statement_of_an_earlier_request_is_refused(world: World) -> None:
    earlier = world.request(name="AAAAAAAA")
    replayed = world.signed(earlier)
    case = world.request(name="BBBBBBBB")
    with pytest.raises(RefusedError):
        world.judge(case, replayed)


def test_approval_turned_into_another_decision_is_refused(world: World) -> None:
    case = world.request()
    denied = world.signed(case, decision="deny")
    forged = dataclasses.replace(denied, statement=world.statement(case).encode())
    with pytest.raises(SignatureError, match="wrong"):
        world.judge(case, forged)


def test_signature_for_another_purpose_is_refused(world: World) -> None:
    case = world.request()
    signed = world.sign(world.statement(case), case, namespace="unlatch-session-v1")
    with pytest.raises(SignatureError, match="another purpose"):
        world.judge(case, signed)


def test_signature_of_a_stranger_is_refused(world: World) -> None:
    case = world.request()
    with pytest.raises(EnrolmentError, match="no operator's key"):
        world.judge(case, world.signed(case, by="stranger"))


def test_signature_of_an_operator_who_may_not_approve_this_is_refused(world: World) -> None:
    world.set_workload(approvers=("mara",))
    case = world.request()
    with pytest.raises(JudgementError, match="jo is no approver"):
        world.judge(case, world.signed(case, by="jo"))


def test_signature_of_a_suspended_operator_is_refused(world: World) -> None:
    case = world.request()
    signed = world.signed(case, by="jo")
    world.enrol(Suspend(name="jo"))
    with pytest.raises(EnrolmentError, match="jo is suspended"):
        world.judge(case, signed)


@pytest.mark.parametrize("kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
def test_security_key_opens_with_touch_only(kind: str) -> None:
    world = World(kinds={"mara": kind})
    case = world.request()
    statement = world.statement(case)

    approval = world.judge(case, world.sign(statement, case)).approvals[0]
    assert (approval.touched, approval.verified) == (True, False)
    with pytest.raises(SignatureError, match="without touch"):
        world.judge(case, world.sign(statement, case, flags=0))


def test_one_broken_statement_spoils_the_question(world: World) -> None:
    case = world.request()
    with pytest.raises(EnrolmentError):
        world.judge(case, world.signed(case), world.signed(case, by="stranger"))


def test_request_at_its_last_second_is_expired(world: World) -> None:
    case = world.request()
    signed = world.signed(case, checkpoint=world.note(time=NOW + 590))

    assert world.judge(case, signed, now=NOW + 599.9).opens
    with pytest.raises(JudgementError, match="expired"):
        world.judge(case, signed, now=NOW + 600)


def test_request_under_an_earlier_policy_is_refused(world: World) -> None:
    case = world.request()
    signed = world.signed(case)
    world.set_workload(approvers=("mara", "jo"), quorum=1)
    with pytest.raises(JudgementError, match="policy"):
        world.judge(case, signed)


def test_request_of_a_client_that_may_not_ask_is_refused() -> None:
    world = World(clients="native")
    case = world.request(client="stock")
    with pytest.raises(JudgementError, match="stock clients may not ask"):
        world.judge(case, world.signed(case))


def test_request_for_another_workloads_key_is_refused(world: World) -> None:
    world.set_workload("other")
    case = world.request(kid=digest("key of other"))
    with pytest.raises(JudgementError, match="does not belong"):
        world.judge(case, world.signed(case))


@pytest.mark.parametrize("member", ["gate", "origin"])
def test_receipt_of_another_gate_is_refused(world: World, member: str) -> None:
    case = world.request(**{member: "https://other.example"})
    with pytest.raises(JudgementError, match="another gate"):
        world.judge(case, world.signed(case))


def test_claims_that_were_changed_after_the_receipt_are_refused(world: World) -> None:
    case = world.request()
    other = Claims(workload="pay", host="other").encode()
    with pytest.raises(JudgementError, match="not the ones of the receipt"):
        world.judge(dataclasses.replace(case, claims=other), world.signed(case))


def test_claims_that_were_left_out_are_refused(world: World) -> None:
    case = world.request()
    with pytest.raises(JudgementError, match="not the ones of the receipt"):
        world.judge(dataclasses.replace(case, claims=None), world.signed(case))


def test_audit_entry_of_another_request_is_refused(world: World) -> None:
    other, case = world.request(name="AAAAAAAA"), world.request(name="BBBBBBBB")
    with pytest.raises(EntryError):
        world.judge(dataclasses.replace(case, entry=other.entry), world.signed(case))


def test_audit_entry_that_is_not_in_the_log_is_refused(world: World) -> None:
    case = world.request()
    unlogged = request_entry(case.receipt, case.token, source="198.51.100.1", claims=case.claims)
    with pytest.raises(ProofError):
        world.judge(dataclasses.replace(case, entry=unlogged), world.signed(case))


def test_checkpoint_from_before_the_request_is_refused(world: World) -> None:
    world.request(name="AAAAAAAA")
    before = world.note()
    case = world.request(name="BBBBBBBB")
    with pytest.raises(ProofError, match="outside the tree"):
        world.judge(case, world.signed(case, checkpoint=before))


def test_checkpoint_of_another_log_is_refused(world: World) -> None:
    case = world.request()
    other = World()
    other.request()
    with pytest.raises(CheckpointError, match=r"not signed by|is wrong"):
        world.judge(case, world.signed(case, checkpoint=other.note()))


def test_checkpoint_is_taken_for_fifteen_minutes_and_not_longer(world: World) -> None:
    case = world.request(expires=NOW + 3600)
    signed = world.signed(case)

    assert world.judge(case, signed, now=NOW + MAX_AGE_SECONDS).opens
    with pytest.raises(CheckpointError, match="old"):
        world.judge(case, signed, now=NOW + MAX_AGE_SECONDS + 1)


def test_checkpoint_from_the_future_is_refused(world: World) -> None:
    case = world.request()
    with pytest.raises(CheckpointError, match="ahead"):
        world.judge(case, world.signed(case, checkpoint=world.note(time=NOW + 120)))
