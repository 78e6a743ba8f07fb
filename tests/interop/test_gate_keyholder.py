"""Keyholder's process against a decider that was taken over: nothing is multiplied without the right statements."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.gate_keyholder import FakeDecider, KeyholderProcess, spent_points

from unlatch.bootstrap.approval import base64url
from unlatch.gate.enrolment import SetWorkload, Suspend
from unlatch.gate.wire import KeyholderRefusal
from unlatch.memguard._native import exchange_key_generate

pytestmark = pytest.mark.interop

SECURITY_KEY = "sk-ssh-ed25519@openssh.com"


def running(folder: Path) -> Iterator[FakeDecider]:
    made = FakeDecider(folder, operators=("jo",), kinds={"jo": SECURITY_KEY})
    with KeyholderProcess(made.folder) as keyholder:
        made.found(keyholder.ask)
        yield made


@pytest.fixture(scope="module")
def decider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDecider]:
    """A decider in this process, with a keyholder; `jo` signs with a security key. Tests leave its roster alone."""
    yield from running(tmp_path_factory.mktemp("shared") / "gate")


@pytest.fixture
def own_decider(tmp_path: Path) -> Iterator[FakeDecider]:
    """The same, for one test."""
    yield from running(tmp_path / "gate")


def refusal(answer: dict[str, Any]) -> str:
    assert "ok" not in answer, answer
    return f"{answer['refused']}: {answer['message']}"


def test_right_statement_multiplies_the_point(decider: FakeDecider) -> None:
    """The positive control: everything below differs from this in one thing."""
    case = decider.receive()

    answer = decider.answer(case, decider.sign(case))

    assert decider.is_right(case, answer)
    assert f"{case.receipt.point} answered" in spent_points(decider.folder)


def test_touched_security_key_multiplies_the_point(decider: FakeDecider) -> None:
    case = decider.receive()

    assert decider.is_right(case, decider.answer(case, decider.sign(case, by="jo")))


def test_no_statement_multiplies_nothing(decider: FakeDecider) -> None:
    case = decider.receive()

    assert "0 of 1 approvals" in refusal(decider.answer(case))
    assert f"{case.receipt.point} answered" not in spent_points(decider.folder)


def test_security_key_without_touch_multiplies_nothing(decider: FakeDecider) -> None:
    case = decider.receive()

    answer = decider.answer(case, decider.sign(case, by="jo", how={"flags": 0}))

    assert "without touch" in refusal(answer)


def test_strangers_statement_multiplies_nothing(decider: FakeDecider) -> None:
    case = decider.receive()

    assert "no operator's key" in refusal(decider.answer(case, decider.sign(case, by="stranger")))


def test_suspended_operators_statement_multiplies_nothing(own_decider: FakeDecider) -> None:
    case = own_decider.receive()
    signed = own_decider.sign(case, by="jo")
    own_decider.enrol(Suspend(name="jo"))

    assert "jo is suspended" in refusal(own_decider.answer(case, signed))


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "deny"}, {"code": "BBBB-BBBB"}, {"code": None}, {"nonce": "x"}, {"point": "x"}, {"kid": "x"},
        {"workload": "other"}, {"origin": "http://other"}, {"gate": "x"}, {"policy_revision": "x"}, {"not_after": 1},
        {"bundle_digest": None}, {"config_digest": "x"}, {"request": "AAAAAAAA"}, {"how": {"namespace": "unlatch-session-v1"}},
        {"how": {"namespace": "unlatch-enrol-v1"}}, {"how": {"hash_name": "sha1"}},
    ],
    ids=str,
)  # fmt: skip
def test_statement_that_says_something_else_multiplies_nothing(
    decider: FakeDecider, changes: dict[str, Any]
) -> None:
    case = decider.receive()

    refusal(decider.answer(case, decider.sign(case, **changes)))


def test_statement_altered_after_signing_multiplies_nothing(decider: FakeDecider) -> None:
    case = decider.receive()
    denied, approved = decider.sign(case, decision="deny"), decider.sign(case, by="stranger")

    assert "signature is wrong" in refusal(
        decider.answer(case, denied | {"statement": approved["statement"]})
    )


def test_statement_on_another_request_multiplies_nothing(decider: FakeDecider) -> None:
    earlier, case = decider.receive(), decider.receive()

    refusal(decider.answer(case, decider.sign(earlier)))


def test_answered_point_is_not_answered_again(decider: FakeDecider) -> None:
    case = decider.receive()
    signed = decider.sign(case)
    decider.answer(case, signed)

    assert refusal(decider.answer(case, signed)).startswith("answered")
    assert refusal(decider.judge(case, signed)).startswith("answered")


def test_answered_point_gets_no_second_receipt(decider: FakeDecider) -> None:
    case = decider.receive()
    decider.answer(case, decider.sign(case))
    with pytest.raises(KeyholderRefusal, match="answered before"):
        decider.receive(point=case.point)


def test_two_receipts_for_a_point_open_it_once(decider: FakeDecider) -> None:
    first = decider.receive()
    second = decider.receive(point=first.point)
    decider.answer(first, decider.sign(first))

    assert refusal(decider.answer(second, decider.sign(second))).startswith("answered")


def test_point_of_another_request_is_not_multiplied(decider: FakeDecider) -> None:
    case, other = decider.receive(), decider.receive()

    answer = decider.answer(case, decider.sign(case), point=base64url.encode(other.point))

    assert "not the one of the receipt" in refusal(answer)


@pytest.mark.parametrize("point", [b"", b"{}", b"[]", b'{"kty":"EC","crv":"P-521","x":"","y":""}', b"\xff"])
def test_point_that_is_none_is_refused(decider: FakeDecider, point: bytes) -> None:
    case = decider.receive()

    assert "not a point" in refusal(decider.answer(case, decider.sign(case), point=base64url.encode(point)))


def test_receipt_of_another_gate_is_refused(decider: FakeDecider, tmp_path: Path) -> None:
    other = FakeDecider(tmp_path / "other")
    with KeyholderProcess(other.folder) as keyholder:
        other.found(keyholder.ask)
        foreign = other.receive()
        signed = other.sign(foreign)

    assert "not ours" in refusal(decider.answer(foreign, signed))


def test_receipt_that_was_altered_is_refused(decider: FakeDecider) -> None:
    case = decider.receive()
    head, payload, signature = case.token.split(b".")
    changed = payload[:-4] + (b"AAAA" if payload[-4:] != b"AAAA" else b"BBBB")

    answer = decider.answer(
        case, decider.sign(case), receipt=base64url.encode(b".".join((head, changed, signature)))
    )

    assert "not ours" in refusal(answer)


def test_denial_holds_whatever_comes_after(decider: FakeDecider) -> None:
    case = decider.receive()
    assert decider.judge(case, decider.sign(case, decision="deny"))["ok"]["denied_by"] == "mara"

    assert refusal(decider.answer(case, decider.sign(case), decider.sign(case, by="jo"))).startswith("denied")


def test_denial_beside_approvals_denies(decider: FakeDecider) -> None:
    case = decider.receive()

    answer = decider.answer(case, decider.sign(case), decider.sign(case, by="jo", decision="deny"))

    assert refusal(answer).startswith("denied")
    assert f"{case.receipt.point} denied" in spent_points(decider.folder)


def test_request_that_is_in_no_checkpoint_opens_nothing(decider: FakeDecider) -> None:
    decider.receive()
    before = decider.note()
    case = decider.receive()

    assert "outside the tree" in refusal(decider.answer(case, decider.sign(case, note=before)))


def test_workload_that_nobody_signed_is_not_taken(decider: FakeDecider) -> None:
    kid = decider.must("new-key")["kid"]
    change = SetWorkload(
        name="pay", kid=kid, approvers=("jo",), quorum=1, clients="both", hold=60, expires=600
    )
    with pytest.raises(KeyholderRefusal, match="jo is no administrator"):
        decider.enrol(change, by="jo")


def test_workload_with_a_key_that_keyholder_did_not_make_is_not_taken(decider: FakeDecider) -> None:
    with pytest.raises(KeyholderRefusal, match="no such new key"):
        decider.set_workload("other", kid=base64url.digest(b"somebody's"))


@pytest.mark.parametrize("workload", ["other", "", "../pay"])
def test_receipt_for_another_workload_is_not_made(own_decider: FakeDecider, workload: str) -> None:
    own_decider.set_workload("other")
    point = base64url.encode(exchange_key_generate("P-521")[1])
    kid = own_decider.roster.workloads["pay"].kid

    answer = own_decider.ask("receive", workload=workload, kid=kid, client="stock", point=point, claims=None)

    assert "does not answer such a request" in refusal(answer)


def test_killed_keyholder_remembers_what_it_spent(tmp_path: Path) -> None:
    made = FakeDecider(tmp_path / "gate")
    with KeyholderProcess(made.folder) as keyholder:
        made.found(keyholder.ask)
        answered, denied, open_ = made.receive(), made.receive(), made.receive()
        made.answer(answered, made.sign(answered))
        made.judge(denied, made.sign(denied, decision="deny"))
        keyholder.kill()
    with KeyholderProcess(made.folder) as keyholder:
        made.ask = keyholder.ask

        assert refusal(made.answer(answered, made.sign(answered))).startswith("answered")
        assert refusal(made.answer(denied, made.sign(denied))).startswith("denied")
        assert made.is_right(open_, made.answer(open_, made.sign(open_)))


def test_torn_last_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    """What was half written when the machine stopped was never acknowledged."""
    made = FakeDecider(tmp_path / "gate")
    with KeyholderProcess(made.folder) as keyholder:
        made.found(keyholder.ask)
        case, other = made.receive(), made.receive()
        made.answer(case, made.sign(case))
    with (made.folder / "keyholder" / "spent").open("ab") as file:
        file.write(other.receipt.point[:20].encode())
    with KeyholderProcess(made.folder) as keyholder:
        made.ask = keyholder.ask

        assert refusal(made.answer(case, made.sign(case))).startswith("answered")
        assert made.is_right(other, made.answer(other, made.sign(other)))


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\1{"])
def test_frame_that_is_none_ends_keyholder(tmp_path: Path, data: bytes) -> None:
    made = FakeDecider(tmp_path / "gate")
    with KeyholderProcess(made.folder) as keyholder:
        with pytest.raises(EOFError):
            keyholder.ask_raw(data)
        assert keyholder.process.wait(10) != 0


QUESTIONS = ("judge", "answer", "receive", "enrol", "checkpoint", "public", "advertise", "chain", "x")
MALFORMED: list[dict[str, Any]] = [
    {}, {"receipt": 1}, {"receipt": "!"}, {"receipt": "YQ"}, {"receipt": "", "entry": "", "index": -1}, {"statements": {}},
    {"enrolment": "YQ", "signature": "x"}, {"enrolment": 1}, {"size": True}, {"workload": [], "kid": {}, "client": 1},
]  # fmt: skip


def test_malformed_questions_are_refused_and_keyholder_lives(decider: FakeDecider) -> None:
    for question, fields in itertools.product(QUESTIONS, MALFORMED):
        assert "ok" not in decider.ask(question, **fields), (question, fields)
    assert "gate" in decider.must("hello")


def test_rewritten_log_is_not_signed(own_decider: FakeDecider) -> None:
    own_decider.receive()
    own_decider.note()
    root = base64url.encode(bytes(32))
    for size in (1, 2, 0):
        answer = own_decider.ask("checkpoint", size=size, root=root, proof=[])

        assert answer["refused"] == "refused"


def test_keyholder_ends_with_its_socket(tmp_path: Path) -> None:
    made = FakeDecider(tmp_path / "gate")
    with KeyholderProcess(made.folder) as keyholder:
        keyholder.ask("hello")
        keyholder.channel.shutdown(socket.SHUT_WR)

        assert keyholder.process.wait(10) == 0


def test_second_keyholder_on_a_folder_does_not_start(decider: FakeDecider) -> None:
    with KeyholderProcess(decider.folder) as second:
        assert second.process.wait(10) == 21
