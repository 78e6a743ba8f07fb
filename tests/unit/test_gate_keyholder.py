"""Keyholder in this process, with a clock that the test turns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from support.gate_keyholder import ORIGIN, PEOPLE, FakeDecider
from support.gate_world import LogKey
from support.host_keys import HostKeyInMemory

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.code import derive_code
from unlatch.errors import ConfigError, RefusedError
from unlatch.gate.enrolment import AddHost, AddOperator, SuspendHost
from unlatch.gate.keyholder import CHAIN_BYTES, Keyholder
from unlatch.gate.vault import Vault
from unlatch.gate.wire import KeyholderRefusal


class Clock:
    """Seconds that go when told."""

    def __init__(self) -> None:
        import time

        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


class Bench:
    """A keyholder, its clock, and a decider."""

    def __init__(self, folder: Path, **facts: Any) -> None:
        self.clock = Clock()
        self.decider = FakeDecider(folder, **facts)
        self.keyholder = self.open()
        self.decider.found(self.ask)

    def open(self, *, origin: str = ORIGIN) -> Keyholder:
        counter = itertools.count()

        def random_bytes(size: int) -> bytes:
            return next(counter).to_bytes(size, "big")

        return Keyholder(
            self.decider.folder / "keyholder", origin=origin, people=PEOPLE, now=self.clock, random_bytes=random_bytes
        )  # fmt: skip

    def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        return dict(self.keyholder.answer({"do": question, **fields}))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "gate")


def test_right_statement_is_answered_until_the_request_expires(bench: Bench) -> None:
    decider = bench.decider
    case = decider.receive()
    bench.clock.now = case.receipt.expires - 1
    signed = decider.sign(case)
    bench.clock.now = case.receipt.expires

    assert "expired" in decider.answer(case, signed)["message"]
    bench.clock.now -= 0.5
    assert decider.is_right(case, decider.answer(case, signed))


def test_checkpoint_older_than_fifteen_minutes_opens_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "gate")
    bench.decider.set_workload("pay", kid=bench.decider.roster.workloads["pay"].kid, expires=7200)
    case = bench.decider.receive()
    signed = bench.decider.sign(case)
    bench.clock.now += 901

    assert "901 s old" in bench.decider.answer(case, signed)["message"]
    bench.clock.now -= 1
    assert bench.decider.is_right(case, bench.decider.answer(case, signed))


def test_receipt_holds_what_keyholder_knows_itself(bench: Bench) -> None:
    case = bench.decider.receive()
    receipt, policy = case.receipt, bench.decider.roster.workloads["pay"]

    assert (receipt.workload, receipt.kid, receipt.policy_revision) == ("pay", policy.kid, policy.revision)
    assert receipt.point == jose.thumbprint(jose.read_json(case.point))  # type: ignore[arg-type]
    assert receipt.code == derive_code(
        nonce=base64url.decode(receipt.nonce), point=receipt.point, workload="pay"
    )
    assert receipt.expires - receipt.issued == policy.expires
    assert receipt.card == f"{ORIGIN}/r/{receipt.id}"


def test_stock_receipt_has_no_code_and_the_hold_as_its_time(bench: Bench) -> None:
    receipt = bench.decider.receive(client="stock").receipt

    assert receipt.code is None
    assert receipt.expires - receipt.issued == bench.decider.roster.workloads["pay"].hold


def test_client_that_may_not_ask_gets_no_receipt(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "gate")
    bench.decider.set_workload("pay", clients="native")
    with pytest.raises(KeyholderRefusal, match="does not answer"):
        bench.decider.receive(client="stock")


@pytest.mark.parametrize("claims", [None, "", "e30", base64url.encode(b'{"host":"h","workload":"other"}')])
def test_native_request_without_its_own_claims_gets_no_receipt(bench: Bench, claims: str | None) -> None:
    case = bench.decider.receive()
    answer = bench.ask(
        "receive", workload="pay", kid=case.receipt.kid, client="native", point=base64url.encode(case.point), claims=claims
    )  # fmt: skip

    assert answer["refused"] == "refused"


def test_stock_request_with_claims_gets_no_receipt(bench: Bench) -> None:
    case = bench.decider.receive()
    answer = bench.ask(
        "receive", workload="pay", kid=case.receipt.kid, client="stock", point=base64url.encode(case.point),
        claims=base64url.encode(case.claims or b""),
    )  # fmt: skip

    assert answer["refused"] == "refused"


def test_gate_served_under_another_address_answers_no_earlier_request(bench: Bench) -> None:
    case = bench.decider.receive()
    signed = bench.decider.sign(case)
    bench.keyholder = bench.open(origin="https://elsewhere.example")

    assert "another gate" in bench.decider.answer(case, signed)["message"]


def test_new_epoch_answers_old_files_and_advertises_the_new_key(bench: Bench) -> None:
    decider = bench.decider
    old = decider.roster.workloads["pay"].kid
    decider.set_workload("pay")
    new = decider.roster.workloads["pay"].kid
    body = jose.read_json(decider.must("advertise", workload="pay")["body"])
    payload = jose.read_json(base64url.decode(body["payload"]))  # type: ignore[index]
    kids = [jose.thumbprint(key) for key in payload["keys"]]  # type: ignore[index]
    point = base64url.encode(decider.receive().point)

    assert new in kids
    assert old not in kids
    assert "ok" not in decider.ask(
        "receive", workload="pay", kid="x", client="stock", point=point, claims=None
    )
    assert "ok" in decider.ask("receive", workload="pay", kid=old, client="stock", point=point, claims=None)


def test_chain_is_handed_out_in_pieces_that_fit_a_frame(bench: Bench) -> None:
    decider = bench.decider
    for _ in range(20):
        decider.set_workload("pay", kid=decider.roster.workloads["pay"].kid)
    sizes = [len(line) for line in bench.keyholder._chain.lines]
    assert sum(sizes) < CHAIN_BYTES  # all in one piece here; a long chain is cut
    bench.keyholder._chain.lines = [line for line in bench.keyholder._chain.lines for _ in range(40)]

    answer = decider.must("chain", start=0)

    assert 0 < len(answer["links"]) < answer["count"] == len(sizes) * 40


def test_question_that_nobody_knows_is_refused(bench: Bench) -> None:
    assert bench.ask("multiply")["refused"] == "unknown"


def test_chain_of_another_gate_is_refused(tmp_path: Path) -> None:
    one, other = Bench(tmp_path / "one"), Bench(tmp_path / "other")
    (one.decider.folder / "keyholder" / "chain").write_bytes(
        (other.decider.folder / "keyholder" / "chain").read_bytes()
    )
    with pytest.raises(RefusedError, match="another gate"):
        one.open()


@pytest.mark.parametrize("what", ["drop", "swap", "change"])
def test_chain_that_was_edited_is_refused(tmp_path: Path, what: str) -> None:
    bench = Bench(tmp_path / "gate", operators=("jo",))
    path = bench.decider.folder / "keyholder" / "chain"
    genesis, first, second = path.read_bytes().splitlines(keepends=True)
    lines = {"drop": [genesis, second], "swap": [genesis, second, first], "change": [genesis, first, second.replace(b"BEGIN", b"BEGUN")]}[what]  # fmt: skip
    path.write_bytes(b"".join(lines))
    with pytest.raises(RefusedError):
        bench.open()


def test_enrolment_is_on_disk_before_it_counts(bench: Bench) -> None:
    bench.decider.keys["kim"] = type(bench.decider.keys["mara"])()
    bench.decider.enrol(AddOperator(name="kim", key=bench.decider.keys["kim"].line, admin=False))

    assert bench.open()._roster == bench.keyholder._roster


def test_checkpoint_after_a_restart_extends_the_last_signed_one(bench: Bench) -> None:
    bench.decider.receive()
    bench.decider.note()
    bench.keyholder = bench.open()
    bench.decider.receive()

    assert bench.decider.note()
    answer = bench.ask("checkpoint", size=1, root=base64url.encode(bench.decider.tree.root(1)), proof=[])
    assert "shorter" in answer["message"]


@pytest.mark.parametrize("name", ["signing.jwe", "log.jwe", "clock.jwe", "master.key"])
def test_damaged_key_file_is_refused(bench: Bench, name: str) -> None:
    path = bench.decider.folder / "keyholder" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises((ConfigError, RefusedError)):
        bench.open()


def test_key_files_cannot_be_swapped(bench: Bench) -> None:
    folder = bench.decider.folder / "keyholder"
    (folder / "signing.jwe").write_bytes((folder / "log.jwe").read_bytes())
    with pytest.raises(ConfigError, match="another purpose"):
        Vault(folder)


def test_master_key_that_others_may_read_is_refused(bench: Bench) -> None:
    path = bench.decider.folder / "keyholder" / "master.key"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        bench.open()


def test_no_key_lies_on_disk_in_clear(bench: Bench) -> None:
    """Each private scalar, as JSON would write it, is searched in every file but the master key's."""
    folder = bench.decider.folder / "keyholder"
    vault = Vault(folder)
    contents = b"".join(
        path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "master.key"
    )
    for path, purpose in (
        (folder / "signing.jwe", "signing"),
        *((one, "exchange") for one in (folder / "keys").iterdir()),
    ):
        _, secret = vault._open(purpose, path)
        with secret.expose() as view:
            private = jose.read_json(bytes(view))
        assert isinstance(private, dict)
        assert str(private["d"]).encode() not in contents


def test_point_of_another_request_is_not_multiplied(bench: Bench) -> None:
    case, other = bench.decider.receive(), bench.decider.receive()
    answer = bench.decider.answer(case, bench.decider.sign(case), point=base64url.encode(other.point))

    assert "not the one of the receipt" in answer["message"]


def test_answer_without_approval_is_none(bench: Bench) -> None:
    assert "0 of 1 approvals" in bench.decider.answer(bench.decider.receive())["message"]


def test_answered_point_is_spent_for_every_question(bench: Bench) -> None:
    decider = bench.decider
    case = decider.receive()
    signed = decider.sign(case)
    assert decider.is_right(case, decider.answer(case, signed))

    assert decider.answer(case, signed)["refused"] == "answered"
    assert decider.judge(case, signed)["refused"] == "answered"
    with pytest.raises(KeyholderRefusal, match="answered before"):
        decider.receive(point=case.point)


def test_denied_point_is_spent_for_every_question(bench: Bench) -> None:
    decider = bench.decider
    case = decider.receive()
    assert decider.judge(case, decider.sign(case, decision="deny"))["ok"]["denied_by"] == "mara"
    bench.keyholder = bench.open()

    assert decider.answer(case, decider.sign(case))["refused"] == "denied"
    with pytest.raises(KeyholderRefusal, match="denied before"):
        decider.receive(point=case.point)


def test_log_that_was_rewritten_is_not_signed(bench: Bench) -> None:
    bench.decider.receive()
    bench.decider.receive()
    bench.decider.note()
    root = base64url.encode(bytes(32))

    for size, proof in ((0, []), (1, []), (2, []), (3, []), (3, [root]), (4, [root, root])):
        assert bench.ask("checkpoint", size=size, root=root, proof=proof)["refused"] == "refused"


def test_exchange_key_that_keyholder_did_not_make_is_not_taken(bench: Bench) -> None:
    with pytest.raises(KeyholderRefusal, match="no such new key"):
        bench.decider.set_workload("other", kid=base64url.digest(b"somebody's"))


def enrolled(bench: Bench) -> HostKeyInMemory:
    host = HostKeyInMemory()
    bench.decider.enrol(AddHost(name="web1", key=str(host.public), protection="tpm"))
    return host


def test_receipt_names_the_host_that_signed(bench: Bench) -> None:
    host, stranger = enrolled(bench), HostKeyInMemory()

    assert bench.decider.receive(host=host).receipt.identity == f"tpm web1 {host.public.thumbprint}"
    assert bench.decider.receive(host=stranger).receipt.identity == f"new {stranger.public.thumbprint}"
    assert bench.decider.receive().receipt.identity is None


def test_challenge_counts_for_two_minutes_by_keyholder_s_clock(bench: Bench) -> None:
    host = enrolled(bench)
    challenge = bench.decider.must("challenge")

    def keep(question: str, **fields: Any) -> dict[str, Any]:
        return {"ok": challenge} if question == "challenge" else bench.ask(question, **fields)

    bench.decider.ask = keep
    bench.clock.now += 120
    assert bench.decider.receive(host=host).receipt.identity is not None
    bench.clock.now += 1
    with pytest.raises(KeyholderRefusal, match="out of date"):
        bench.decider.receive(host=host)


def test_decider_cannot_make_a_challenge(bench: Bench) -> None:
    host = enrolled(bench)
    forged = LogKey().challenge(time=int(bench.clock.now), gate=bench.decider.roster.genesis.gate)

    def forge(question: str, **fields: Any) -> dict[str, Any]:
        return {"ok": {"challenge": forged}} if question == "challenge" else bench.ask(question, **fields)

    bench.decider.ask = forge
    with pytest.raises(KeyholderRefusal, match="another gate"):
        bench.decider.receive(host=host)


@pytest.mark.parametrize("proof", ["", "x", "A" * 300, 7, ["x"]])
def test_proof_that_is_none_gets_no_receipt(bench: Bench, proof: Any) -> None:
    with pytest.raises(KeyholderRefusal):
        bench.decider.receive(proof=proof)


def test_proof_of_another_request_gets_no_receipt(bench: Bench) -> None:
    host = enrolled(bench)
    proofs: list[str] = []

    def listen(question: str, **fields: Any) -> dict[str, Any]:
        proofs.append(str(fields.get("proof")))
        return bench.ask(question, **fields)

    bench.decider.ask = listen
    bench.decider.receive(host=host)
    with pytest.raises(KeyholderRefusal, match="wrong"):
        bench.decider.receive(proof=proofs[-1])


def test_suspended_host_gets_no_receipt(bench: Bench) -> None:
    host = enrolled(bench)
    bench.decider.enrol(SuspendHost(name="web1"))
    with pytest.raises(KeyholderRefusal, match="counts no more"):
        bench.decider.receive(host=host)


def test_host_s_key_is_no_approval(bench: Bench) -> None:
    host = enrolled(bench)
    case = bench.decider.receive(host=host)
    message = b"whatever a statement says"
    forged = {"statement": base64url.encode(message), "signature": host.sign(message).hex(), "proof": []}

    assert bench.decider.answer(case)["message"] == "0 of 1 approvals"
    assert "refused" in bench.decider.answer(case, forged)


def test_statement_under_another_identity_opens_nothing(bench: Bench) -> None:
    host = enrolled(bench)
    case = bench.decider.receive(host=host)
    for identity in (None, f"file web1 {host.public.thumbprint}"):
        wrong = bench.decider.sign(case, identity=identity)
        assert "identity differs" in bench.decider.answer(case, wrong)["message"]
    assert bench.decider.is_right(case, bench.decider.answer(case, bench.decider.sign(case)))
