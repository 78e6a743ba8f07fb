"""Modules that hang, crash, sign wrongly or return errors: contained, told apart, and healed without a person."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.custodian_process import Custodian, CustodianRefusedError, tls13, verified
from support.softhsm import MODULE, PIN, SoftHsm

from unlatch.memguard.custodian.protocol import Refusal

pytestmark = pytest.mark.interop

SOURCE = Path(__file__).parent.parent / "support/bad_pkcs11.c"


class Bad:
    """A module under orders, and the tokens behind it."""

    def __init__(self, hsm: SoftHsm, module: Path, order: Path) -> None:
        self.hsm, self.module, self._order = hsm, module, order

    def order(self, text: str) -> None:
        """Say what C_Sign does from now on."""
        self._order.write_text(text)

    def start(self, **changed: Any) -> Custodian:
        """A custodian with this module."""
        keys = [{"id": 1, "name": "site", "uri": "pkcs11:token=prod;object=site;type=private"}]
        config = {
            "kind": "pkcs11", "module": str(self.module), "token": "pkcs11:token=prod", "keys": keys,
            "files": {"read": [str(self._order)]}, "deadline_ms": 300, "hang_ms": 1500, "sessions": 2,
        }  # fmt: skip
        variables = {"SOFTHSM2_CONF": str(self.hsm.config), "BAD_PKCS11": str(self._order)}
        custodian = Custodian(config | changed, variables)
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)
        return custodian


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tmp_path_factory.mktemp("module") / "bad.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wall", f'-DREAL="{MODULE}"', "-o", module, SOURCE],
        check=True,
        timeout=60,
    )
    return module


@pytest.fixture
def bad(built: Path, tmp_path: Path) -> Iterator[Bad]:
    with SoftHsm() as hsm:
        hsm.add_token("prod")
        hsm.make_key("prod", "EC:prime256v1", "site")
        made = Bad(hsm, built, tmp_path / "order")
        made.order("ok")
        yield made


def refused(custodian: Custodian) -> Refusal:
    with pytest.raises(CustodianRefusedError) as caught:
        custodian.sign(1, 0x0403, tls13())
    return caught.value.reason


def test_module_that_hangs_is_too_slow_and_then_ended(bad: Bad) -> None:
    with bad.start() as custodian:
        bad.order("sleep 60")
        began = time.monotonic()

        assert refused(custodian) == Refusal.TOO_SLOW
        assert time.monotonic() - began < 1
        assert custodian.ended() == 75
        assert time.monotonic() - began < 4


def test_other_sessions_go_on_while_one_hangs(bad: Bad) -> None:
    with bad.start(hang_ms=20_000, deadline_ms=1000) as custodian:
        bad.order("sleep 5")
        slow = custodian.start_sign(1, 0x0403, tls13("slow"))
        for _ in range(50):  # round trips, in which the module reads its orders
            custodian.status()
        bad.order("ok")
        verified(custodian.keys()["site"], 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))
        with pytest.raises(CustodianRefusedError):
            custodian.answer(slow)


def test_module_that_crashes_takes_only_its_own_process(bad: Bad) -> None:
    with bad.start() as custodian:
        bad.order("crash")

        with pytest.raises(EOFError):
            custodian.sign(1, 0x0403, tls13())
        assert custodian.ended() == -signal.SIGSEGV
    bad.order("ok")
    with bad.start() as again:
        again.sign(1, 0x0403, tls13())


def test_wrong_signature_never_leaves(bad: Bad) -> None:
    with bad.start() as custodian:
        bad.order("wrong")
        assert refused(custodian) == Refusal.INTERNAL
        assert custodian.status()["counts"]["wrong signatures"] == 1
        bad.order("ok")

        verified(custodian.keys()["site"], 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))


GONE = [0x005, 0x006, 0x030, 0x031, 0x032, 0x0B0, 0x0B3, 0x0E0, 0x0E1]
OTHERS = [
    0x002,
    0x007,
    0x020,
    0x060,
    0x063,
    0x068,
    0x070,
    0x071,
    0x082,
    0x090,
    0x091,
    0x150,
    0x200,
    0x80000001,
]


@pytest.mark.parametrize("code", GONE, ids=hex)
def test_hardware_that_is_gone_is_found_again_within_two_seconds(bad: Bad, code: int) -> None:
    with bad.start() as custodian:
        bad.order(f"error {code:x}")
        assert refused(custodian) == Refusal.LOST
        bad.order("ok")
        began = time.monotonic()
        custodian.wait_for("lost")
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)

        verified(custodian.keys()["site"], 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("code", OTHERS, ids=hex)
def test_other_errors_refuse_one_signature_only(bad: Bad, code: int) -> None:
    with bad.start() as custodian:
        bad.order(f"error {code:x}")
        assert refused(custodian) in (Refusal.INTERNAL, Refusal.LOST)
        bad.order("ok")

        verified(custodian.keys()["site"], 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))


def test_token_that_forgot_the_login_asks_for_the_pin_again(bad: Bad) -> None:
    with bad.start() as custodian:
        bad.order("error 101")
        assert refused(custodian) == Refusal.NEED_PIN
        bad.order("ok")
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)

        custodian.sign(1, 0x0403, tls13())
