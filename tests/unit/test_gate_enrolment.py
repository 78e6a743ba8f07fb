"""Enrolments: canonical, in range, and by nobody but administrators."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from support.gate_world import GATE, NOW, LogKey, World, digest
from support.ssh_keys import SshKey

from unlatch.gate.checkpoint import CheckpointError
from unlatch.gate.enrolment import (
    AddOperator,
    EnrolmentError,
    Genesis,
    Link,
    SetWorkload,
    Suspend,
    enrolment_digest,
    read_enrolment,
    write_enrolment,
)
from unlatch.gate.roster import Roster
from unlatch.gate.sshsig import SignatureError

LINK = Link(seq=3, prev=digest("before"), time=NOW)
WORKLOAD = SetWorkload(
    name="pay", kid=digest("kid"), approvers=("mara", "jo"), quorum=2, clients="both", hold=60, expires=600
)
KEY = SshKey()
LOG = LogKey().public
GENESIS = Genesis(name="mara", key=KEY.line, gate=GATE, log=str(LOG.log), clock=str(LOG.clock))
CHANGES = (WORKLOAD, AddOperator(name="jo", key=KEY.line, admin=True), Suspend(name="jo"), GENESIS)


def changed(change: Any, **members: Any) -> bytes:
    written = json.loads(write_enrolment(LINK, change)) | members
    return rfc8785.dumps({name: value for name, value in written.items() if value is not ...})


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.kind))
def test_enrolment_is_read_as_it_was_written(change: Any) -> None:
    assert read_enrolment(write_enrolment(LINK, change)) == (LINK, change)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.kind))
def test_enrolment_with_a_member_missing_or_more_is_refused(change: Any) -> None:
    for name in json.loads(write_enrolment(LINK, change)):
        with pytest.raises(EnrolmentError):
            read_enrolment(changed(change, **{name: ...}))
    with pytest.raises(EnrolmentError):
        read_enrolment(changed(change, more=1))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.kind))
@pytest.mark.parametrize("value", [[], {}, None, 1.5, [[]], "", "\u00e4"])
def test_enrolment_with_a_member_of_another_type_is_refused(change: Any, value: Any) -> None:
    free = {"prev", "key", "log", "clock"}  # any text: what it must be is the roster's question
    for name in json.loads(write_enrolment(LINK, change)):
        if not (isinstance(value, str) and name in free):
            with pytest.raises(EnrolmentError):
                read_enrolment(changed(change, **{name: value}))


@pytest.mark.parametrize(
    "facts",
    [
        {"quorum": 0}, {"quorum": 3}, {"quorum": -1}, {"quorum": True}, {"approvers": []}, {"approvers": ["mara", "mara"]},
        {"approvers": ["Mara", "jo"]}, {"approvers": [1, 2]}, {"clients": "all"}, {"hold": 0}, {"hold": 3601},
        {"expires": 0}, {"expires": 86401}, {"kid": "short"}, {"name": "../pay"}, {"name": "p" * 65}, {"name": "pay\n"},
        {"seq": -1}, {"time": -1}, {"unlatch": 2}, {"kind": "other"}, {"kind": []},
    ],
)  # fmt: skip
def test_workload_outside_the_rules_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(EnrolmentError):
        read_enrolment(changed(WORKLOAD, **facts))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"unlatch":' + b"[" * 900 + b"]" * 900 + b"}"]
)
def test_bytes_that_are_no_enrolment_are_refused(data: bytes) -> None:
    with pytest.raises(EnrolmentError):
        read_enrolment(data)


def test_enrolment_that_is_not_canonical_is_refused() -> None:
    members = json.loads(write_enrolment(LINK, WORKLOAD))
    with pytest.raises(EnrolmentError, match="canonical"):
        read_enrolment(json.dumps(members).encode())


def test_operator_who_is_no_administrator_enrols_nobody() -> None:
    world = World(operators=("jo",))
    with pytest.raises(EnrolmentError, match="jo is no administrator"):
        world.enrol(AddOperator(name="kim", key=SshKey().line, admin=False), by="jo")


def test_stranger_enrols_nobody() -> None:
    with pytest.raises(EnrolmentError, match="no operator's key"):
        World().enrol(AddOperator(name="kim", key=SshKey().line, admin=True), by="stranger")


def test_suspended_administrator_enrols_nobody() -> None:
    world = World()
    world.keys["kim"] = SshKey()
    world.enrol(AddOperator(name="kim", key=world.keys["kim"].line, admin=True))
    world.enrol(Suspend(name="kim"))
    with pytest.raises(EnrolmentError, match="kim is suspended"):
        world.enrol(Suspend(name="mara"), by="kim")


@pytest.mark.parametrize("place", [{"seq": 1}, {"seq": 9}, {"prev": digest("another chain")}, {"prev": ""}])
def test_enrolment_for_another_place_is_refused(place: dict[str, Any]) -> None:
    world = World()
    with pytest.raises(EnrolmentError, match="another place"):
        world.enrol(AddOperator(name="kim", key=SshKey().line, admin=False), **place)


def test_enrolment_is_not_taken_twice() -> None:
    world = World(operators=("jo",))
    data, signature = world.chain[-1]
    with pytest.raises(EnrolmentError, match="another place"):
        world.roster.enrol(data, signature or "")


def test_enrolment_of_another_gate_is_refused() -> None:
    one, other = World(), World()
    data, signature = other.chain[1]
    with pytest.raises(EnrolmentError):
        one.roster.enrol(data, signature or "")


def test_enrolment_without_a_signature_is_refused() -> None:
    world = World()
    data = write_enrolment(
        Link(seq=world.roster.seq + 1, prev=world.roster.head, time=NOW), Suspend(name="mara")
    )
    with pytest.raises(SignatureError):
        world.roster.enrol(data, "")


def test_second_genesis_is_refused() -> None:
    with pytest.raises(EnrolmentError, match="genesis"):
        World().enrol(GENESIS)


@pytest.mark.parametrize(
    "first",
    [
        write_enrolment(LINK, GENESIS),
        write_enrolment(Link(seq=0, prev="", time=NOW), WORKLOAD),
        write_enrolment(Link(seq=0, prev=digest("x"), time=NOW), GENESIS),
    ],
)
def test_chain_without_a_genesis_is_refused(first: bytes) -> None:
    with pytest.raises(EnrolmentError, match="genesis"):
        Roster.fold([(first, None)])
    with pytest.raises(EnrolmentError, match="genesis"):
        Roster.fold([])


def test_genesis_with_a_log_key_that_is_none_is_refused() -> None:
    with pytest.raises(CheckpointError):
        Roster.begin(changed(GENESIS, seq=0, prev="", log="log+00000000+AAAA"))


def test_fingerprint_is_the_digest_of_the_genesis() -> None:
    world = World()

    assert world.roster.fingerprint == enrolment_digest(world.chain[0][0])


def test_folding_the_chain_gives_the_roster() -> None:
    world = World(operators=("jo", "kim"), quorum=2)

    assert Roster.fold(world.chain) == world.roster


def test_key_belongs_to_one_human() -> None:
    world = World(operators=("jo",))
    with pytest.raises(EnrolmentError, match="enrolled already"):
        world.enrol(AddOperator(name="kim", key=world.keys["jo"].line, admin=False))


def test_exchange_key_belongs_to_one_workload() -> None:
    world = World()
    with pytest.raises(EnrolmentError, match="another workload"):
        world.set_workload("other", kid=digest("key of pay"))


def test_new_epoch_keeps_the_old_key_of_its_workload() -> None:
    world = World()
    world.set_workload(kid=digest("second"))

    assert {kid for kid, name in world.roster.kids.items() if name == "pay"} == {
        digest("key of pay"),
        digest("second"),
    }
    assert world.roster.workloads["pay"].kid == digest("second")


def test_unknown_or_suspended_approver_is_refused() -> None:
    world = World(operators=("jo",))
    with pytest.raises(EnrolmentError, match="kim is no operator"):
        world.set_workload(approvers=("mara", "kim"))
    world.enrol(Suspend(name="jo"))
    with pytest.raises(EnrolmentError, match="jo is no operator in force"):
        world.set_workload(approvers=("jo",))


def test_last_administrator_stays() -> None:
    with pytest.raises(EnrolmentError, match="last administrator"):
        World(operators=("jo",)).enrol(Suspend(name="mara"))


def test_suspended_operator_gets_no_new_key() -> None:
    world = World(operators=("jo",))
    world.enrol(Suspend(name="jo"))
    with pytest.raises(EnrolmentError, match="suspended"):
        world.enrol(AddOperator(name="jo", key=SshKey().line, admin=False))


def test_nobody_who_is_unknown_is_suspended() -> None:
    with pytest.raises(EnrolmentError, match="no operator is called"):
        World().enrol(Suspend(name="kim"))


def test_every_change_of_a_policy_is_a_new_revision() -> None:
    world = World()
    before = world.roster.workloads["pay"].revision
    world.set_workload()

    assert world.roster.workloads["pay"].revision != before
