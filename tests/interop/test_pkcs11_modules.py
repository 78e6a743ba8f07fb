"""Custodians with other modules than SoftHSM itself: p11-kit's remoting (a token daemon that dies) and NSS's softoken."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.custodian_process import Custodian, CustodianRefusedError, tls13, verified
from support.p11_daemon import CLIENT, Daemon
from support.softhsm import PIN, SoftHsm

from unlatch.memguard.custodian.protocol import Refusal

pytestmark = pytest.mark.interop

NSS = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
NSS_PIN = "nss-softoken-pin"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with SoftHsm() as hsm:
        hsm.add_token("prod")
        hsm.make_key("prod", "EC:prime256v1", "site")
        with Daemon(hsm) as running:
            yield running


def remote(daemon: Daemon) -> Custodian:
    keys = [{"id": 1, "name": "site", "uri": "pkcs11:token=prod;object=site;type=private"}]
    config = {
        "kind": "pkcs11",
        "module": str(CLIENT),
        "token": "pkcs11:token=prod",
        "keys": keys,
        "sockets": "unix",
    }
    return Custodian(config, {"P11_KIT_SERVER_ADDRESS": f"unix:path={daemon.socket}"})


def test_remote_token_signs_without_its_files(daemon: Daemon) -> None:
    with remote(daemon) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)

        verified(custodian.keys()["site"], 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))


def test_daemon_that_is_not_there_yet_is_waited_for(daemon: Daemon) -> None:
    daemon.kill()
    daemon.socket.unlink(missing_ok=True)
    with remote(daemon) as custodian:
        custodian.wait_for("lost")
        daemon.start()
        began = time.monotonic()
        custodian.wait_for("need-pin")

        assert time.monotonic() - began < 2
        custodian.give_pin(PIN)
        custodian.sign(1, 0x0403, tls13())


def test_daemon_that_is_killed_fails_fast_and_heals_within_two_seconds_of_its_return(daemon: Daemon) -> None:
    with remote(daemon) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)
        key = custodian.keys()["site"]
        custodian.sign(1, 0x0403, tls13())
        daemon.kill()

        began = time.monotonic()
        with pytest.raises(CustodianRefusedError) as caught:
            custodian.sign(1, 0x0403, tls13())
        assert caught.value.reason == Refusal.LOST
        assert time.monotonic() - began < 1
        custodian.wait_for("lost")

        daemon.start()
        began = time.monotonic()
        custodian.wait_for("need-pin")
        custodian.give_pin(PIN)
        verified(key, 0x0403, tls13(), custodian.sign(1, 0x0403, tls13()))
        assert time.monotonic() - began < 2


def nss(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["certutil", *arguments, "-d", f"sql:{folder}", "-f", str(folder / "pin")], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "scheme"), [(["rsa"], 0x0804), (["ec", "-q", "nistp256"], 0x0403)])
def test_softoken_of_nss_signs(tmp_path: Path, kind: list[str], scheme: int) -> None:
    folder = tmp_path / "nss"
    folder.mkdir()
    (folder / "pin").write_text(NSS_PIN + "\n")
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(256))
    nss(folder, "-N")
    nss(
        folder,
        "-S",
        "-x",
        "-n",
        "site",
        "-z",
        str(noise),
        "-k",
        *kind,
        "-s",
        "CN=site",
        "-t",
        ",,",
        "-m",
        "7",
    )
    identity = next(word for word in nss(folder, "-K").split() if len(word) == 40)
    uri = "pkcs11:token=NSS%20Certificate%20DB;id=" + "".join(
        f"%{identity[at : at + 2]}" for at in range(0, 40, 2)
    )
    config = {
        "kind": "pkcs11",
        "module": NSS,
        "parameters": f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='' flags=",
        "token": "pkcs11:token=NSS%20Certificate%20DB",
        "keys": [{"id": 1, "name": "site", "uri": uri}],
        "files": {"write": [str(folder)]},
    }
    with Custodian(config) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(NSS_PIN)
        assert custodian.status()["missing"] == []

        verified(custodian.keys()["site"], scheme, tls13(), custodian.sign(1, scheme, tls13()))
