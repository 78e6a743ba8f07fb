"""Keys that stay in a token or TPM: served through guard and a custodian, the PIN out of the sealed file."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hardware_site import IN_TPM, SOFT, TOKENS, HardwareSite
from support.product import eventually
from support.softhsm import SoftHsm
from support.swtpm import Swtpm
from support.tangd import Tangd

pytestmark = [pytest.mark.e2e, pytest.mark.interop]


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        yield tokens


def tangd_options(tangd: Tangd) -> tuple[str, ...]:
    return ("--to", tangd.url, "--thp", tangd.thumbprint)


@pytest.fixture
def hardware_site(tmp_path: Path, hsm: SoftHsm, tangd: Tangd) -> HardwareSite:
    return HardwareSite(tmp_path, hsm, *tangd_options(tangd))


def test_keys_in_a_token_serve_each_version(hardware_site: HardwareSite, upstream: int) -> None:
    with hardware_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        for host in TOKENS:
            eventually(f"the first answer of {host}", lambda host=host: hardware_site.answers(proxy, host))
        served = {
            (host, version): hardware_site.answers(proxy, host, version)
            for host in (SOFT, *TOKENS)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        }

    assert set(served.values()) == {True}


def test_killed_custodian_heals_and_holds_up_nobody(hardware_site: HardwareSite, upstream: int) -> None:
    with hardware_site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")
        eventually("the first answer", lambda: hardware_site.answers(proxy, TOKENS[0]))
        os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
        while_down = hardware_site.answers(proxy, SOFT)
        proxy.wait_for_event("custodian started", count=2)
        eventually("the key's return", lambda: hardware_site.answers(proxy, TOKENS[0]))
        unlocked = sum(event["event"] == "unlocked" for event in proxy.events())

    assert while_down
    assert unlocked == 1


def test_wrong_pin_is_tried_once_and_software_keys_serve(
    tmp_path: Path, hsm: SoftHsm, tangd: Tangd, upstream: int
) -> None:
    site = HardwareSite(tmp_path, hsm, *tangd_options(tangd), pin="000000")
    with site.serve(upstream) as proxy:
        proxy.wait_for_event("serving")

        def state() -> str | None:
            (one,) = proxy.status()["processes"]["guard"]["custodians"]
            return str(one["state"]) if one["state"].startswith("pin-") else None

        refused = eventually("the refusal of the PIN", state)
        os.kill(proxy.pid("custodian 0"), signal.SIGKILL)
        proxy.wait_for_event("custodian started", count=2)
        served = site.answers(proxy, SOFT)
        broken = site.answers(proxy, TOKENS[0])

    assert refused == "pin-wrong"
    assert served
    assert broken is None
    assert hsm.tool("prod", "--list-objects")  # the right PIN still logs in: it was not locked


def test_key_in_a_tpm_serves(hardware_site: HardwareSite, upstream: int) -> None:
    with Swtpm() as tpm:
        hardware_site.add_tpm_key(tpm.tcti)
        with hardware_site.serve(upstream) as proxy:
            proxy.wait_for_event("serving")
            served = eventually("the first answer", lambda: hardware_site.answers(proxy, IN_TPM))

    assert served
