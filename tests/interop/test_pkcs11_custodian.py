"""A custodian with SoftHSM 2: every scheme, PIN by message, loss and return, limits, confinement."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.custodian_process import TLS12, Custodian, CustodianRefusedError, tls13, verified
from support.softhsm import MODULE, PIN, SoftHsm

from unlatch.memguard.custodian.protocol import Operation, Refusal

pytestmark = pytest.mark.interop

KEYS = {
    "rsa": "rsa:2048",
    "p256": "EC:prime256v1",
    "p384": "EC:secp384r1",
    "p521": "EC:secp521r1",
    "ed": "EC:edwards25519",
}


@pytest.fixture(scope="module")
def hsm() -> Iterator[SoftHsm]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        for number, (name, kind) in enumerate(KEYS.items(), start=1):
            tokens.make_key("prod", kind, name, f"{number:02x}")
        yield tokens


def config(**changed: Any) -> dict[str, Any]:
    keys = [
        {"id": number, "name": name, "uri": f"pkcs11:token=prod;object={name};type=private"}
        for number, name in enumerate(KEYS, start=1)
    ]
    return {"kind": "pkcs11", "module": str(MODULE), "token": "pkcs11:token=prod", "keys": keys} | changed


def started(hsm: SoftHsm, **changed: Any) -> Custodian:
    return Custodian(config(**changed), {"SOFTHSM2_CONF": str(hsm.config)})


@pytest.fixture
def custodian(hsm: SoftHsm) -> Iterator[Custodian]:
    """Logged in."""
    with started(hsm) as running:
        running.wait_for("need-pin")
        running.give_pin(PIN)
        running.wait_for("ready")
        yield running


@pytest.mark.parametrize("name", KEYS)
def test_every_scheme_of_every_key_verifies(custodian: Custodian, name: str) -> None:
    key = custodian.keys()[name]
    for scheme in key["schemes"]:
        signature = custodian.sign(key["id"], scheme, TLS12)
        verified(key, scheme, TLS12, signature)
    for scheme in {
        "rsa": (0x0804, 0x0805, 0x0806),
        "p256": (0x0403,),
        "p384": (0x0503,),
        "p521": (0x0603,),
        "ed": (0x0807,),
    }[name]:
        message = tls13(name)
        verified(key, scheme, message, custodian.sign(key["id"], scheme, message))


@pytest.mark.parametrize(
    ("key", "scheme", "message", "reason"),
    [
        (2, 0x0403, b"GET / HTTP/1.1", Refusal.NOT_A_HANDSHAKE),
        (2, 0x0403, tls13().replace(b"server", b"client"), Refusal.NOT_A_HANDSHAKE),
        (2, 0x0403, tls13()[:-1], Refusal.NOT_A_HANDSHAKE),
        (2, 0x0403, TLS12[:-1] + b"\0", Refusal.NOT_A_HANDSHAKE),
        (2, 0x0503, tls13(), Refusal.SCHEME),
        (1, 0x0401, tls13(), Refusal.SCHEME),
        (1, 0x0403, tls13(), Refusal.SCHEME),
        (5, 0x0804, tls13(), Refusal.SCHEME),
        (2, 0x0203, TLS12, Refusal.SCHEME),
        (99, 0x0403, tls13(), Refusal.UNKNOWN_KEY),
    ],
)
def test_what_is_no_server_handshake_of_this_key_is_refused(
    custodian: Custodian, key: int, scheme: int, message: bytes, reason: Refusal
) -> None:
    with pytest.raises(CustodianRefusedError) as caught:
        custodian.sign(key, scheme, message)
    assert caught.value.reason == reason


def test_nothing_is_signed_before_the_pin(hsm: SoftHsm) -> None:
    with started(hsm) as custodian:
        custodian.wait_for("need-pin")
        for ask in (lambda: custodian.sign(2, 0x0403, tls13()), lambda: custodian.keys()):
            with pytest.raises(CustodianRefusedError) as caught:
                ask()
            assert caught.value.reason == Refusal.NEED_PIN


def test_wrong_pin_is_not_tried_again(hsm: SoftHsm) -> None:
    with started(hsm) as custodian:
        custodian.wait_for("need-pin")
        for _ in range(5):
            with pytest.raises(CustodianRefusedError) as caught:
                custodian.give_pin("000000", generation=3)
            assert caught.value.reason == Refusal.PIN_WRONG
        assert "the PIN is wrong" in custodian.wait_for("pin-wrong")["reason"]
        # One attempt reached the token: a new generation still may.
        custodian.give_pin(PIN, generation=4)
        assert custodian.keys()


def test_rotated_key_is_used_only_after_it_was_looked_at(hsm: SoftHsm) -> None:
    hsm.make_key("prod", "EC:prime256v1", "rotating", "70")
    keys = [{"id": 1, "name": "rotating", "uri": "pkcs11:token=prod;object=rotating;type=private"}]
    with started(hsm, keys=keys, sessions=1) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)
        before = custodian.keys()["rotating"]
        custodian.sign(1, 0x0403, tls13())
        for kind in ("privkey", "pubkey"):
            hsm.tool("prod", "--delete-object", "--type", kind, "--id", "70")
        hsm.make_key("prod", "EC:prime256v1", "rotating", "70")

        with pytest.raises(CustodianRefusedError):
            custodian.sign(1, 0x0403, tls13())
        for _ in range(3):
            with pytest.raises(CustodianRefusedError):
                custodian.sign(1, 0x0403, tls13())
        after = custodian.keys()["rotating"]

        assert after["spki"] != before["spki"]
        verified(after, 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))


def test_key_that_is_not_there_is_named_and_others_go_on(hsm: SoftHsm) -> None:
    keys = [
        *config()["keys"],
        {"id": 9, "name": "absent", "uri": "pkcs11:token=prod;object=absent;type=private"},
    ]
    with started(hsm, keys=keys) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)

        missing = custodian.status()["missing"]

        assert [one["name"] for one in missing] == ["absent"]
        assert "no private key" in missing[0]["reason"]
        custodian.sign(2, 0x0403, tls13())


def test_token_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    with SoftHsm() as empty, Custodian(config(), {"SOFTHSM2_CONF": str(empty.config)}) as custodian:
        assert "no token fits" in custodian.wait_for("lost")["reason"]
        with pytest.raises(CustodianRefusedError) as caught:
            custodian.sign(2, 0x0403, tls13())
        assert caught.value.reason == Refusal.LOST

        empty.add_token("prod")
        empty.make_key("prod", "EC:prime256v1", "p256", "02")
        began = time.monotonic()
        custodian.wait_for("need-pin")
        assert time.monotonic() - began < 2
        custodian.give_pin(PIN)
        verified(custodian.keys()["p256"], 0x0403, tls13(), custodian.sign(2, 0x0403, tls13()))


def test_many_questions_at_once_are_all_answered(custodian: Custodian) -> None:
    key = custodian.keys()["p256"]
    numbers = [custodian.start_sign(2, 0x0403, tls13(str(at))) for at in range(60)]

    for at, number in enumerate(numbers):
        verified(key, 0x0403, tls13(str(at)), custodian.answer(number))
    told = custodian.status()
    assert told["keys"]["2"]["signed"] == 60
    assert told["keys"]["2"]["p99_ms"] > 0


def test_full_queue_is_busy_at_once(hsm: SoftHsm) -> None:
    with started(hsm, queue=2, sessions=1) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)
        numbers = [custodian.start_sign(1, 0x0804, tls13(str(at))) for at in range(200)]
        reasons = []
        for number in numbers:
            try:
                custodian.answer(number)
            except CustodianRefusedError as refused:
                reasons.append(refused.reason)

        assert set(reasons) == {Refusal.BUSY}
        assert len(reasons) < 200


def test_process_is_confined(custodian: Custodian) -> None:
    assert custodian.status()["posture"] == {
        "not_dumpable": True,
        "ends_with_parent": True,
        "landlock": True,
        "seccomp": True,
        "hard_environment": True,
    }
    state = Path(f"/proc/{custodian.process.pid}/status").read_text()
    assert "Seccomp:\t2" in state
    assert "NoNewPrivs:\t1" in state


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\2" + bytes(11),
        bytes.fromhex("01010002000000010000000500"),
        bytes.fromhex("010100020000000100000001ff"),
        bytes.fromhex("017f00020000000100000000"),
        bytes.fromhex("013100010000000100000000"),
    ],
)
def test_what_is_no_message_ends_the_service(custodian: Custodian, data: bytes) -> None:
    custodian.send_raw(data)

    assert custodian.ended() == 0


def test_two_open_questions_of_one_number_end_the_service(hsm: SoftHsm) -> None:
    with started(hsm, sessions=1) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)
        question = (
            bytes.fromhex("0101000100000063") + (2 + len(tls13())).to_bytes(4, "big") + b"\x08\x04" + tls13()
        )
        for _ in range(50):
            try:
                custodian.send_raw(question)
            except OSError:
                break
        assert custodian.ended() == 0


def test_guard_that_goes_away_ends_it(custodian: Custodian) -> None:
    custodian.__exit__(None, None, None)

    assert custodian.process.returncode == 0


def test_wrong_configuration_is_said(hsm: SoftHsm) -> None:
    with started(hsm, keys=[{"id": -1, "name": "x", "uri": "pkcs11:"}]) as custodian:
        with pytest.raises(EOFError, match="custodian's configuration"):
            custodian.ask(Operation.STATUS)
        assert custodian.ended() == 21


def test_supervisor_starts_what_a_plan_says(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    import json

    from unlatch.memguard.custodian.launch import launch
    from unlatch.memguard.custodian.plan import plan
    from unlatch.memguard.custodian.protocol import Message

    monkeypatch.setenv("SOFTHSM2_CONF", str(hsm.config))
    uri = f"pkcs11:token=prod;object=p256;type=private?module-path={MODULE}"
    (config,), _ = plan({"site": uri.encode()})

    async def run() -> tuple[str, int]:
        process, guard = await launch(config)
        with guard:
            guard.settimeout(30)
            event = json.loads(bytes(Message.decode(await asyncio.to_thread(guard.recv, 65536)).payload))
        return event["state"], await process.wait()

    assert asyncio.run(run()) == ("need-pin", 0)
