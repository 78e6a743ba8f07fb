"""Who asks: challenges, proofs, and what receipt, statement, verdict and audit log make of them. No key opens anything."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import rfc8785
from support.gate_world import NOW, LogKey, World, digest
from support.host_keys import HostKeyInMemory

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.identity.proof import Asking, Identity, Proof
from unlatch.errors import BusyError
from unlatch.gate.audit import AuditError, verify_log
from unlatch.gate.enrolment import AddHost, EnrolmentError, SuspendHost
from unlatch.gate.entry import EntryError, change_entry, check_request_entry, decision_entry
from unlatch.gate.identity import IdentityError, StaleChallengeError, check_in_force, identify
from unlatch.gate.merkle import Tree, leaf_hash
from unlatch.gate.protocol import Point
from unlatch.gate.request import MAX_PENDING, MAX_PENDING_OF_HOSTS, MAX_PENDING_OF_SOURCE, Asked, check_room
from unlatch.gate.statement import Statement, StatementError

CLAIMS = Claims(workload="pay", host="web1").encode()
ASKING = Asking("pay", digest("kid"), digest("point"), CLAIMS)


@pytest.fixture
def host() -> HostKeyInMemory:
    return HostKeyInMemory()


@pytest.fixture
def world(host: HostKeyInMemory) -> World:
    made = World()
    made.add_host("web1", host)
    return made


def who(world: World, header: str, *, now: float = NOW, asking: Asking = ASKING) -> str:
    return str(identify(header, asking, roster=world.roster, now=now))


def test_enrolled_key_has_its_name_and_what_the_administrator_vouched_for(
    world: World, host: HostKeyInMemory
) -> None:
    other = HostKeyInMemory()
    world.add_host("web2", other, protection="file")
    challenge = world.log.challenge(time=NOW)

    assert who(world, host.prove(ASKING, challenge)) == f"tpm web1 {host.public.thumbprint}"
    assert who(world, other.prove(ASKING, challenge)) == f"file web2 {other.public.thumbprint}"


def test_key_that_nobody_enrolled_is_new(world: World) -> None:
    stranger = HostKeyInMemory("tpm")
    header = stranger.prove(ASKING, world.log.challenge(time=NOW))

    assert who(world, header) == f"new {stranger.public.thumbprint}"


@pytest.mark.parametrize("age", [-60, 0, 120])
def test_challenge_counts_for_two_minutes(world: World, host: HostKeyInMemory, age: int) -> None:
    assert who(world, host.prove(ASKING, world.log.challenge(time=NOW - age))).startswith("tpm")


@pytest.mark.parametrize("age", [-61, 121, 1e9, -1e9])
def test_challenge_of_another_time_is_stale(world: World, host: HostKeyInMemory, age: float) -> None:
    header = host.prove(ASKING, world.log.challenge(time=NOW - int(age)))
    with pytest.raises(StaleChallengeError, match="out of date"):
        who(world, header)


def test_challenge_of_another_gate_is_refused(world: World, host: HostKeyInMemory) -> None:
    for challenge in (LogKey().challenge(time=NOW), world.log.challenge(time=NOW, gate=digest("another"))):
        with pytest.raises(StaleChallengeError, match="another gate"):
            who(world, host.prove(ASKING, challenge))


def test_checkpoint_s_signature_is_no_challenge(world: World, host: HostKeyInMemory) -> None:
    stamped = base64url.encode(NOW.to_bytes(8, "big") + bytes(64))
    with pytest.raises(StaleChallengeError):
        who(world, host.prove(ASKING, stamped))


def test_key_without_a_signature_must_sign_first(world: World, host: HostKeyInMemory) -> None:
    with pytest.raises(StaleChallengeError, match="no challenge"):
        who(world, str(Proof(host.public)))


def test_proof_for_another_request_is_refused(world: World, host: HostKeyInMemory) -> None:
    header = host.prove(ASKING, world.log.challenge(time=NOW))
    for other in (
        dataclasses.replace(ASKING, point=digest("x")),
        dataclasses.replace(ASKING, kid=digest("x")),
        dataclasses.replace(ASKING, workload="x"),
        dataclasses.replace(ASKING, claims=Claims(workload="pay", host="web2").encode()),
    ):
        with pytest.raises(IdentityError, match="wrong"):
            who(world, header, asking=other)


def test_header_that_is_no_proof_is_refused(world: World) -> None:
    with pytest.raises(IdentityError):
        who(world, "x")


def test_suspended_key_is_refused(world: World, host: HostKeyInMemory) -> None:
    world.enrol(SuspendHost(name="web1"))
    with pytest.raises(EnrolmentError, match="counts no more"):
        who(world, host.prove(ASKING, world.log.challenge(time=NOW)))


def test_replaced_key_is_refused_and_the_new_one_counts(world: World, host: HostKeyInMemory) -> None:
    newer = HostKeyInMemory()
    world.add_host("web1", newer)
    challenge = world.log.challenge(time=NOW)
    with pytest.raises(EnrolmentError, match="counts no more"):
        who(world, host.prove(ASKING, challenge))
    assert who(world, newer.prove(ASKING, challenge)) == f"tpm web1 {newer.public.thumbprint}"


def test_suspended_host_may_get_a_new_key_and_never_the_old_one(world: World, host: HostKeyInMemory) -> None:
    world.enrol(SuspendHost(name="web1"))
    with pytest.raises(EnrolmentError, match="enrolled before"):
        world.add_host("web1", host)
    with pytest.raises(EnrolmentError, match="enrolled before"):
        world.add_host("web2", host)

    newer = HostKeyInMemory()
    assert world.add_host("web1", newer).hosts["web1"].key == newer.public.thumbprint


def test_unknown_host_cannot_be_suspended(world: World) -> None:
    with pytest.raises(EnrolmentError, match="no host"):
        world.enrol(SuspendHost(name="web9"))


def test_only_an_administrator_enrols_a_host(host: HostKeyInMemory) -> None:
    world = World(operators=("jo",))
    with pytest.raises(EnrolmentError, match="no administrator"):
        world.enrol(AddHost(name="web1", key=str(host.public), protection="tpm"), by="jo")


@pytest.mark.parametrize(
    "facts",
    [
        {"key": "x"},
        {"key": 7},
        {"protection": "hsm"},
        {"protection": None},
        {"name": "Web1"},
        {"key": "A" * 87},
    ],
)
def test_enrolment_of_something_else_is_refused(world: World, facts: dict[str, Any]) -> None:
    right: dict[str, Any] = {"name": "web2", "key": str(HostKeyInMemory().public), "protection": "tpm"}
    with pytest.raises(EnrolmentError):
        world.enrol(AddHost(**right | facts))


def test_identity_alone_opens_nothing(world: World, host: HostKeyInMemory) -> None:
    case = world.request(host=host)

    assert not world.judge(case).opens
    assert world.judge(case, world.signed(case)).opens


def test_statement_names_the_identity_that_the_operator_signed(world: World, host: HostKeyInMemory) -> None:
    case = world.request(host=host)
    statement = world.statement(case)

    assert statement.identity == f"tpm web1 {host.public.thumbprint}"
    assert Statement.parse(statement.encode()) == statement
    for other in (None, f"new {host.public.thumbprint}", f"tpm web2 {host.public.thumbprint}"):
        with pytest.raises(StatementError, match="identity"):
            world.judge(case, world.signed(case, identity=other))


def test_statement_on_a_request_without_identity_has_no_such_member(world: World) -> None:
    case = world.request()

    assert b"identity" not in world.statement(case).encode()
    with pytest.raises(StatementError, match="identity"):
        world.judge(case, world.signed(case, identity=f"new {digest('x')}"))


@pytest.mark.parametrize("value", [None, "", "none", 7, [digest("x")], digest("x")])
def test_statement_with_an_identity_that_is_none_is_refused(world: World, value: Any) -> None:
    members = json.loads(world.statement(world.request()).encode()) | {"identity": value}
    with pytest.raises(StatementError):
        Statement.parse(rfc8785.dumps(members))


@pytest.mark.parametrize("change", ["suspend", "replace"])
def test_request_whose_key_counts_no_more_opens_no_more(
    world: World, host: HostKeyInMemory, change: str
) -> None:
    case = world.request(host=host)
    signed = world.signed(case)
    if change == "suspend":
        world.enrol(SuspendHost(name="web1"))
    else:
        world.add_host("web1", HostKeyInMemory())
    with pytest.raises(IdentityError, match="counts no more"):
        world.judge(case, signed)


def test_new_key_that_is_enrolled_meanwhile_stays_what_it_was(world: World) -> None:
    stranger = HostKeyInMemory()
    case = world.request(host=stranger)
    signed = world.signed(case)
    world.add_host("web2", stranger)

    assert world.judge(case, signed).opens
    assert case.receipt.identity == f"new {stranger.public.thumbprint}"


def test_identity_that_proved_nothing_is_always_in_force(world: World) -> None:
    check_in_force(None, roster=world.roster)
    check_in_force(f"new {digest('x')}", roster=world.roster)


def test_entry_that_names_another_host_does_not_record_the_request(
    world: World, host: HostKeyInMemory
) -> None:
    case = world.request(host=host)
    members = json.loads(case.entry)
    for identity in (None, f"new {host.public.thumbprint}"):
        changed = rfc8785.dumps(members | {"identity": identity})
        with pytest.raises(EntryError):
            check_request_entry(changed, receipt=case.receipt, token=case.token)


def test_entry_without_identity_is_written_as_ever(world: World) -> None:
    assert json.loads(world.request().entry).keys().isdisjoint({"identity", "proof"})


def export(world: World) -> list[bytes]:
    head = {"unlatch-audit": 1, "fingerprint": world.roster.fingerprint, "checkpoint": world.note()}
    return [json.dumps(head).encode() + b"\n", *(one + b"\n" for one in world.entries)]


def approve(world: World, case: Any) -> None:
    signed = world.signed(case)
    facts: dict[str, Any] = {"statement": signed.statement, "signature": signed.signature, "operator": "mara"}
    world.record(decision_entry(**facts, request=case.receipt.id, time=NOW + 1))
    world.record(change_entry(request=case.receipt.id, before="pending", after="approved", time=NOW + 1))


def verify(world: World) -> Any:
    return verify_log(export(world), fingerprint=world.roster.fingerprint)


def test_log_with_hosts_verifies_with_public_keys_alone(world: World, host: HostKeyInMemory) -> None:
    approve(world, world.request(name="AAAAAAAA", host=host))
    approve(world, world.request(name="BBBBBBBB", host=HostKeyInMemory()))
    approve(world, world.request(name="CCCCCCCC"))
    world.enrol(SuspendHost(name="web1"))

    assert (verify(world).approvals, verify(world).enrolments) == (3, 4)


@pytest.mark.parametrize(
    "what", ["no proof", "no identity", "stranger", "promoted", "stale", "other point", "other key"]
)
def test_log_with_a_host_that_did_not_sign_is_refused(world: World, host: HostKeyInMemory, what: str) -> None:
    named = f"tpm web1 {host.public.thumbprint}"
    stranger = HostKeyInMemory()
    challenge = world.log.challenge(time=NOW)
    facts: dict[str, dict[str, Any]] = {
        "no proof": {"identity": named},
        "stranger": {"host": stranger, "identity": named},
        "promoted": {"host": stranger, "identity": f"tpm web1 {stranger.public.thumbprint}"},
        "stale": {"host": host, "challenge": world.log.challenge(time=NOW - 121)},
        "other point": {"host": host, "proof": host.prove(ASKING, challenge)},
        "other key": {"host": host, "identity": f"tpm web2 {host.public.thumbprint}"},
    }
    if what == "no identity":
        entry = json.loads(world.request(host=host).entry)
        del entry["identity"]
        world.entries[-1] = rfc8785.dumps(entry)
        world.tree = Tree(map(leaf_hash, world.entries))
    else:
        world.request(**facts[what])
    with pytest.raises(AuditError):
        verify(world)


def test_log_with_a_request_by_a_suspended_host_is_refused(world: World, host: HostKeyInMemory) -> None:
    identity = str(world.roster.identity_of(host.public))
    world.enrol(SuspendHost(name="web1"))
    world.request(host=host, identity=identity)
    with pytest.raises(AuditError, match="counts no more"):
        verify(world)


def test_log_with_an_approval_after_the_host_s_suspension_is_refused(
    world: World, host: HostKeyInMemory
) -> None:
    case = world.request(host=host)
    world.enrol(SuspendHost(name="web1"))
    approve(world, case)
    with pytest.raises(AuditError, match="counts no more"):
        verify(world)


def asked(world: World, identity: Identity | None = None, *, source: str = "192.0.2.1") -> Asked:
    return Asked(
        workload=world.roster.workloads["pay"], kid=digest("kid"), point=Point(b"", digest("point")), client="native",
        claims=CLAIMS, source=source, identity=identity,
    )  # fmt: skip


def identities(count: int) -> list[str]:
    return [f"tpm web{number} {digest(str(number))}" for number in range(count)]


def test_strangers_take_no_place_of_hosts(world: World) -> None:
    strangers = [(f"192.0.2.{number}", f"new {digest(str(number))}") for number in range(MAX_PENDING)]
    check_room(asked(world, Identity.parse(identities(1)[0])), strangers)

    for identity in (None, Identity(digest("x"))):
        with pytest.raises(BusyError):
            check_room(asked(world, identity), strangers)


def test_hosts_take_no_place_of_strangers_and_share_an_address(world: World) -> None:
    hosts: list[tuple[str, str | None]] = [("192.0.2.1", one) for one in identities(MAX_PENDING_OF_HOSTS)]
    check_room(asked(world), hosts)
    check_room(asked(world, Identity.parse(hosts[0][1] or "")), hosts)

    with pytest.raises(BusyError):
        check_room(asked(world, Identity(digest("n"), "web999", "tpm")), hosts)


def test_one_address_takes_not_every_place_of_strangers(world: World) -> None:
    waiting: list[tuple[str, str | None]] = [("192.0.2.1", None)] * MAX_PENDING_OF_SOURCE
    check_room(asked(world, source="192.0.2.2"), waiting)

    with pytest.raises(BusyError):
        check_room(asked(world), waiting)
