"""Modules, daemons and TPMs that misbehave under a served proxy: other keys go on, the broken one says why and heals.

"Heals" is always without a person, without another guard, and within two seconds of the hardware's return.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bad_module import BadModule
from support.hardware_site import IN_TPM, SOFT, TOKENS, HardwareSite
from support.p11_daemon import CLIENT, Daemon
from support.product import Proxy, eventually
from support.softhsm import SoftHsm
from support.swtpm import Swtpm
from support.tangd import Tangd

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

HEALS_WITHIN = 2.0
WATCHED = 20
BOUND = 1.0
"""Seconds that a handshake on a sealed key may take meanwhile; alone it takes 5 ms, and tests share their processors."""
DEADLINE = 2.5
"""Seconds until guard refuses a signature that hardware does not make (docs/protocol.md 1.3)."""
HARD = TOKENS[0]
CODES = """
1 2 3 5 6 7 8 9 a 10 11 12 13 1b 20 21 30 31 32 40 41 50 51 54 60 62 63 64 65 66 67 68 69 6a 6b 70 71 82 90 91 a0 a1 a2 a3 a4
a5 b0 b1 b3 b4 b5 b6 b7 b8 c0 c1 d0 d1 e0 e1 e2 f0 f1 f2 100 101 102 103 104 105 110 112 113 114 115 120 121 130 140 141 150
160 170 180 190 191 1a0 1a1 1b0 1b1 1b2 1b3 1b4 1b5 1b6 1b7 1b8 1b9 200 201 202 203 80000001
""".split()  # noqa: SIM905 - a table of a hundred numbers
"""Every CKR code but CKR_OK in hexadecimal (pkcs11t.h of PKCS#11 v3.0), and one of a vendor's."""


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        yield tokens


@pytest.fixture
def bad(tmp_path: Path) -> BadModule:
    return BadModule(tmp_path / "module")


class Served:
    """A proxy with a sealed key and keys in hardware, watched."""

    def __init__(self, site: HardwareSite, proxy: Proxy) -> None:
        self.site, self.proxy = site, proxy
        proxy.wait_for_event("serving")
        for host in (SOFT, HARD):
            self.heals(host, within=30)
        self.guard = proxy.pid("guard")

    def custodian(self) -> dict[str, Any]:
        """What `status` says of the first."""
        return dict(self.proxy.status()["processes"]["guard"]["custodians"][0])

    def says(self, cause: str) -> dict[str, Any]:
        """Wait until `status` and the log name a cause; asks for handshakes meanwhile, so that there is one."""

        def look() -> dict[str, Any] | None:
            self.site.answers(self.proxy, HARD)
            one = self.custodian()
            return one if cause in one["reason"] else None

        found = eventually(f"the cause {cause!r} in status", look)
        self.logged(cause)
        return found

    def logged(self, cause: str) -> None:
        """Wait until the log names a cause; asks for handshakes meanwhile."""

        def look() -> bool | None:
            self.site.answers(self.proxy, HARD)
            told = (event for event in self.proxy.events() if event.get("event") == "custodian")
            return any(cause in event["reason"] for event in told) or None

        eventually(f"the cause {cause!r} in the log", look)

    def heals(self, host: str = HARD, *, within: float = HEALS_WITHIN) -> float:
        """Seconds until a handshake on this key succeeds."""
        began = time.monotonic()
        eventually(f"an answer of {host}", lambda: self.site.answers(self.proxy, host))
        took = time.monotonic() - began
        assert took < within
        return took

    def is_untouched(self) -> None:
        """Nobody was asked, and guard is the same."""
        assert sum(event["event"] == "unlocked" for event in self.proxy.events()) == 1
        assert self.proxy.pid("guard") == self.guard

    def fails(self, host: str = HARD) -> float:
        """Seconds until a handshake on this key fails."""
        began = time.monotonic()
        assert self.site.answers(self.proxy, host) is None
        return time.monotonic() - began

    @contextmanager
    def pressed(self, host: str = HARD, *, clients: int = 4) -> Iterator[None]:
        """Clients that ask for a key in hardware all the time; handshakes on the sealed key must succeed meanwhile."""
        over = threading.Event()
        slow: list[float] = []
        failed: list[object] = []

        def ask() -> None:
            while not over.is_set():
                self.site.answers(self.proxy, host)

        def watch() -> None:
            while not over.is_set() or len(slow) < WATCHED:
                began = time.monotonic()
                if not self.site.answers(self.proxy, SOFT):
                    failed.append(began)
                slow.append(time.monotonic() - began)

        threads = [threading.Thread(target=ask) for _ in range(clients)] + [threading.Thread(target=watch)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert failed == []
        assert max(slow) < BOUND


@pytest.fixture
def served(tmp_path: Path, hsm: SoftHsm, bad: BadModule, tangd: Tangd, upstream: int) -> Iterator[Served]:
    site = HardwareSite(tmp_path, hsm, "--to", tangd.url, "--thp", tangd.thumbprint, module=bad.path)
    site.files.append(bad.folder)
    with site.serve(upstream) as proxy:
        yield Served(site, proxy)


def test_module_that_sleeps_for_ever_holds_up_nothing_else(served: Served, bad: BadModule) -> None:
    bad.order("sleep 1000000")
    with served.pressed():
        served.logged("hangs")
        served.proxy.wait_for_event("custodian died")
        ended = eventually(
            "the cause in status", lambda: served.proxy.status()["processes"]["custodian 0"]["last_end"]
        )
        assert ended == "its module hung"
        assert served.fails() < DEADLINE
    bad.order("ok")
    served.heals(
        within=HEALS_WITHIN + 1
    )  # calls that never return end their process first: DEADLINE of its own
    served.is_untouched()


def test_module_that_sleeps_and_wakes_is_used_at_once(served: Served, bad: BadModule) -> None:
    bad.order("hang")
    with served.pressed(clients=0):
        assert served.fails() < DEADLINE
        eventually("the cause", lambda: "no signature within" in served.custodian()["reason"] or None)
        bad.order("ok")
        served.heals()
    served.is_untouched()
    assert served.proxy.status()["processes"]["custodian 0"]["restarts"] == 0


def test_module_that_crashes_takes_only_its_own_keys(served: Served, bad: BadModule) -> None:
    bad.order("crash")
    with served.pressed():
        died = served.proxy.wait_for_event("custodian died", count=3)
        assert served.fails() < DEADLINE
        ended = served.proxy.status()["processes"]["custodian 0"]["last_end"]
        bad.order("ok")
        served.heals()
    served.is_untouched()
    assert died["status"] == -signal.SIGSEGV
    assert ended == "killed by SIGSEGV"


def test_every_error_code_is_contained_and_heals(served: Served, bad: BadModule) -> None:
    times = {}
    with served.pressed(clients=1):
        for code in CODES:
            bad.order(f"error {code}")
            eventually(
                f"the failure by {code}", lambda: served.site.answers(served.proxy, HARD) is None or None
            )
            bad.order("ok")
            times[code] = served.heals()
    served.is_untouched()

    assert max(times.values()) < HEALS_WITHIN
    assert not any(event["event"] == "custodian died" for event in served.proxy.events())


@pytest.mark.parametrize(("order", "cause"), [
    ("error 30", "DeviceError"),
    ("error 70", "MechanismInvalid"),
    ("error 101", "wants its PIN"),
    ("error 80000001", "refused"),
    ("wrong", "signature was wrong"),
])  # fmt: skip
def test_cause_is_in_status_and_log(served: Served, bad: BadModule, order: str, cause: str) -> None:
    bad.order(order)
    served.says(cause)
    bad.order("ok")
    served.heals()
    eventually("an end of the trouble", lambda: quiet(served))


def quiet(served: Served) -> bool | None:
    served.site.answers(served.proxy, HARD)
    one = served.custodian()
    return (one["state"], one["reason"]) == ("ready", "") or None


def test_token_that_fails_all_the_time_is_not_stormed(served: Served, bad: BadModule) -> None:
    before = bad.logins
    bad.order("error 30")
    with served.pressed():
        began = time.monotonic()
        while time.monotonic() - began < 3:
            served.fails()
    took = time.monotonic() - began

    assert bad.logins - before <= 2 + took / 0.4
    bad.order("ok")
    served.heals()


def test_wrong_pin_reaches_the_token_once(
    tmp_path: Path, hsm: SoftHsm, bad: BadModule, tangd: Tangd, upstream: int
) -> None:
    site = HardwareSite(
        tmp_path, hsm, "--to", tangd.url, "--thp", tangd.thumbprint, pin="000000", module=bad.path
    )
    site.files.append(bad.folder)
    with site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")

        def refused() -> str | None:
            state = str(proxy.status()["processes"]["guard"]["custodians"][0]["state"])
            return state if state.startswith("pin-") else None

        first = eventually("the refusal", refused)
        for count in (2, 3):
            os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
            proxy.wait_for_event("custodian started", count=count)
            assert eventually("the refusal again", refused) == "pin-wrong"
        proxy.command("reload")
        tried = bad.logins
        served = site.answers(proxy, SOFT)

    assert first == "pin-wrong"
    assert tried == 1
    assert served


def test_killed_token_daemon_fails_fast_and_heals(
    tmp_path: Path, hsm: SoftHsm, tangd: Tangd, upstream: int
) -> None:
    with Daemon(hsm) as daemon:
        site = HardwareSite(tmp_path, hsm, "--to", tangd.url, "--thp", tangd.thumbprint, module=CLIENT)
        site.extra |= {"P11_KIT_SERVER_ADDRESS": f"unix:path={daemon.socket}"}
        with site.serve(upstream) as proxy:
            served = Served(site, proxy)
            with served.pressed():
                daemon.kill()
                eventually("its failure", lambda: site.answers(proxy, HARD) is None or None)
                assert served.fails() < BOUND
                assert served.says("")["state"] == "lost"
                daemon.start()
                served.heals()
            served.is_untouched()


def test_killed_tpm_fails_fast_and_heals(tmp_path: Path, hsm: SoftHsm, tangd: Tangd, upstream: int) -> None:
    with Swtpm() as tpm:
        site = HardwareSite(tmp_path, hsm, "--to", tangd.url, "--thp", tangd.thumbprint)
        site.add_tpm_key(tpm.tcti)
        with site.serve(upstream) as proxy:
            served = Served(site, proxy)
            served.heals(IN_TPM, within=30)
            with served.pressed(IN_TPM):
                tpm.stop()
                eventually("its failure", lambda: site.answers(proxy, IN_TPM) is None or None)
                assert served.fails(IN_TPM) < DEADLINE
                assert site.answers(proxy, HARD), "the token has nothing to do with it"
                tpm.start()
                served.heals(IN_TPM)
            served.is_untouched()


def test_killed_custodian_of_a_raw_tpm_heals(
    tmp_path: Path, hsm: SoftHsm, tangd: Tangd, upstream: int
) -> None:
    with Swtpm() as tpm:
        site = HardwareSite(tmp_path, hsm, "--to", tangd.url, "--thp", tangd.thumbprint)
        site.add_tpm_key(tpm.tcti)
        with site.serve(upstream) as proxy:
            served = Served(site, proxy)
            for count in (1, 2, 3):
                with served.pressed(IN_TPM):
                    served.heals(IN_TPM, within=30)
                    os.kill(proxy.pid("custodian 1"), signal.SIGKILL)
                    proxy.wait_for_event("custodian died", count=count)
                    served.heals(IN_TPM)
            served.is_untouched()


def test_tpm_that_hangs_holds_up_nothing_else(
    tmp_path: Path, hsm: SoftHsm, tangd: Tangd, upstream: int
) -> None:
    with Swtpm() as tpm:
        site = HardwareSite(tmp_path, hsm, "--to", tangd.url, "--thp", tangd.thumbprint)
        site.add_tpm_key(tpm.tcti)
        with site.serve(upstream) as proxy:
            served = Served(site, proxy)
            served.heals(IN_TPM, within=30)
            with served.pressed(IN_TPM):
                os.kill(tpm.pid, signal.SIGSTOP)
                try:
                    assert served.fails(IN_TPM) < DEADLINE
                    assert site.answers(proxy, HARD)
                finally:
                    os.kill(tpm.pid, signal.SIGCONT)
                served.heals(IN_TPM)
            served.is_untouched()
